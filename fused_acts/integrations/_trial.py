"""Trials: whether a module computes the same with a fused gate.

Both forwards run on the same numbers, with small weights in the place of the module's own.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from fused_acts.integrations._calls import Unfusable
from fused_acts.integrations._forms import Form

_SIZES = {"E": 2, "H": 2, "I": 3, "J": 6}  # experts, hidden, intermediate, gate and up packed

# Other numbers that modules have of themselves.
_ATTRIBUTES = {
    **dict.fromkeys(("hidden_size", "hidden_dim", "input_size"), _SIZES["H"]),
    **dict.fromkeys(("intermediate_size", "intermediate_dim", "expert_dim"), _SIZES["I"]),
    **dict.fromkeys(("num_experts", "num_routed_experts", "n_shared_experts"), _SIZES["E"]),
    "total_experts": _SIZES["E"] + 1,  # LongCat: one that returns what it is given
    "up_proj_dim": _SIZES["I"],
    "top_k": 1,
    "layer_dic": {None: 0},  # Zamba 2
}

# The weights of modules that may keep their own forward, by their names: matrices, whose sizes are
# given as those of their weights, in the place of modules; and parameters.
_WEIGHTS: tuple[Mapping[str, str], ...] = (
    {"gate_proj": "IH", "up_proj": "IH", "down_proj": "HI"},  # BitNet, Seed-OSS, Falcon-H1
    {"gate_up_proj": "JH", "down_proj": "HI"},  # Phi-4 for audio
    {"gate_up_proj": "JH", "down_proj": "HI", "gate_up_proj_adapter_list.0": "JH"},  # Zamba 2
    {"w_0": "IH", "w_1": "IH"},  # CPM-Ant
    {"proj_up_gate": "IH", "proj_up": "IH", "proj_down": "HI"},  # xLSTM
    {"proj_up_gate_z": "JH", "proj_down": "HI"},  # the same, packed
    {"w1": "IH", "v1": "IH", "w2": "IH"},  # DBRX
    {"gate_up_proj": "EJH", "down_proj": "EHI"},  # LongCat
    {"gate_up_proj": "EHJ", "down_proj": "EIH"},  # Aria, Llama 4
    {"gate_proj": "EIH", "up_proj": "EIH", "down_proj": "EHI"},  # Inkling
    {  # JetMoE
        "router.layer": "EH",
        "input_linear.weight": "EJH",
        "output_linear.weight": "EHI",
        "bias": "H",
    },
)


def weights_of(module: nn.Module) -> list[Mapping[str, str]]:
    return [weights for weights in _WEIGHTS if _has(module, weights)]


def _has(module: nn.Module, weights: Mapping[str, str]) -> bool:
    for name, sizes in weights.items():
        *outer, last = name.split(".")
        inner: Any = module
        for step in outer:
            inner = getattr(inner, step, None)
        parameter = getattr(inner, "_parameters", {}).get(last)
        is_module = len(sizes) == 2 and last in getattr(inner, "_modules", {})
        if not is_module and (parameter is None or parameter.dim() != len(sizes)):
            return False
    return True


def agree(
    own: Callable[..., Any],
    fused: Callable[..., Any],
    arguments: Callable[[torch.dtype], tuple[Any, ...]],
    exactly: bool,
) -> bool:
    """Whether both compute the same in float64, or exactly: bit for bit in smaller dtypes.

    In training and in evaluation, where the first argument is a module.
    """
    dtypes = (torch.bfloat16, torch.float32) if exactly else (torch.float64,)
    with torch.no_grad():
        for dtype, training in itertools.product(dtypes, (True, False)):
            given = arguments(dtype)
            if given and isinstance(given[0], nn.Module):
                given[0].training = training
            float32 = _Float32()  # type: ignore[no-untyped-call]
            result = _apart(fused, given)
            with float32:
                expected = _apart(own, given)
            if not (torch.equal if exactly else float32.close)(result, expected):
                return False
    return True


def tried(own: Any, fused: Any, arguments: Any, rounding: str) -> bool:
    """`agree`, or Unfusable if either of them fails."""
    try:
        return agree(own, fused, arguments, exactly=rounding == "eager")
    except Exception as error:
        raise Unfusable(f"cannot be tried: {type(error).__name__}: {error}") from error


def _apart(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """From the same random numbers each time: own forwards may drop out elements."""
    with torch.random.fork_rng(devices=()):
        return function(*arguments)


class _Float32(TorchDispatchMode):
    """Notes whether there is float32 where arguments are in float64, as in Beam."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen |= isinstance(out, Tensor) and out.dtype == torch.float32
        return out

    def close(self, out: Tensor, expected: Tensor) -> bool:
        if self.seen:
            error = 1e-6 * expected.abs().amax(-1, keepdim=True) + 1e-30  # below there is none
            return bool(((out - expected).abs() <= error).all())
        # Models write some activations with shortened constants; other activations are far away.
        return torch.allclose(out, expected, rtol=1e-9, atol=1e-9)


def small_mlp(module: nn.Module, form: Form, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """The module with matrices in the place of its projections and its dropout, and an input."""
    weights = {form.gate: "IH" if form.up else "JH", form.up: "IH", form.down: "HI"}
    weights[form.dropout] = "II"
    given = {name: sizes for name, sizes in weights.items() if name is not None}
    return small(module, given, dtype), _sequences(dtype)


def small_experts(module: Any, ids: int, dtype: torch.dtype) -> tuple[Any, ...]:
    """The module with two small experts, and an input for as many: with three some tokens go to no
    expert."""
    module = _unparametrized(module)
    up, cols = ("gate_up_proj", "J") if module.has_gate else ("up_proj", "I")
    weights = {up: f"E{cols}H", "down_proj": "EHI"}
    if module.is_transposed:
        weights = {name: sizes[0] + sizes[2] + sizes[1] for name, sizes in weights.items()}
    if module.has_bias:
        weights |= {f"{up}_bias": f"E{cols}", "down_proj_bias": "EH"}
    return small(module, weights, dtype, others="H"), *_routed(dtype, ids)


def small_own(
    module: nn.Module, weights: Mapping[str, str], others: str, arguments: int, dtype: torch.dtype
) -> tuple[Any, ...]:
    """The module with small weights, and as many arguments as its forward takes."""
    inputs: dict[int, tuple[Tensor, ...]] = {
        1: (_sequences(dtype),),
        2: (rows(2, dtype), _weights(64, 2, start=3, dtype=dtype)),  # tokens; by token and expert
        3: _routed(dtype),
        4: (rows(2, dtype), *(_weights(3, 2, start=start, dtype=dtype) for start in range(3))),
    }
    return small(module, weights, dtype, others), *inputs[arguments]


def _sequences(dtype: torch.dtype) -> Tensor:
    return rows(2, dtype).view(4, 16, 2)  # [batch, tokens, hidden], as models call it


def _routed(dtype: torch.dtype, ids: int = 3) -> tuple[Tensor, ...]:
    index = torch.arange(128, device="cpu").view(64, 2) % ids
    return rows(2, dtype), index, _weights(64, 2, start=3, dtype=dtype)


def small(
    module: nn.Module, weights: Mapping[str, str], dtype: torch.dtype, others: str = ""
) -> nn.Module:
    """Another module of its class, in training, that shares all else with it.

    Of the weights that are not named, factors stay factors. With others, the letter of a size,
    modules with parameters, such as norms, are matrices of that size, and vectors have it.
    """
    modules: dict[str, Any] = dict(module._modules)
    parameters: dict[str, Any] = dict(module._parameters)
    heads = {name.partition(".")[0] for name in weights}
    sizes = dict(weights)
    for name in parameters.keys() - heads:
        parameter = parameters[name]
        if parameter is not None and parameter.numel() == 1:
            parameters[name] = _weights(*parameter.shape, start=1, dtype=dtype)
        elif parameter is not None and others:
            sizes[name] = others * parameter.dim()
    if others:
        unnamed = modules.keys() - heads
        sizes |= {n: 2 * others for n in unnamed if any(True for _ in modules[n].parameters())}
    for start, (name, letters) in enumerate(sizes.items()):
        head, _, rest = name.partition(".")
        shape = [_SIZES[letter] for letter in letters]
        if rest:
            modules[head] = small(modules[head], {rest: letters}, dtype)
        elif head in parameters:
            parameters[head] = _weights(*shape, start=start, dtype=dtype)
        else:
            has_bias = getattr(modules[head], "bias", None) is not None
            modules[head] = _matrix(shape, start, dtype, has_bias)
    attributes = {name: _ATTRIBUTES[name] for name in _ATTRIBUTES.keys() & vars(module).keys()}
    return changed(module, _modules=modules, _parameters=parameters, training=True, **attributes)


def changed(module: nn.Module, **attributes: Any) -> nn.Module:
    other = object.__new__(type(module))
    other.__dict__.update({**vars(module), **attributes})
    return other


def _unparametrized(module: nn.Module) -> nn.Module:
    """Of the class that torch.nn.utils.parametrize derives another from, with no tensors yet in
    the place of what it computes."""
    if not parametrize.is_parametrized(module):
        return module
    kind: Any = type(module).__base__
    other: nn.Module = object.__new__(kind)
    modules: dict[str, Any] = dict(module._modules)
    parameters = {**module._parameters, **dict.fromkeys(modules.pop("parametrizations"))}
    other.__dict__.update({**vars(module), "_modules": modules, "_parameters": parameters})
    return other


def rows(cols: int, dtype: torch.dtype) -> Tensor:
    """[64, cols], of sizes from 0.01 to 10000, so that limits show."""
    sizes = torch.logspace(-2, 4, 64, dtype=torch.float64, device="cpu")
    return (sizes[:, None] * _weights(64, cols, start=1, dtype=torch.float64)).to(dtype)


def _weights(*shape: int, start: int, dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    steps = torch.arange(start, start + count, dtype=torch.float64, device="cpu")
    return steps.sin().view(shape).to(dtype)


def _matrix(shape: list[int], start: int, dtype: torch.dtype, has_bias: bool) -> nn.Module:
    rows, cols = shape
    matrix = nn.Linear(cols, rows, bias=has_bias, device="meta")
    matrix.weight = nn.Parameter(_weights(*shape, start=start, dtype=dtype))
    if has_bias:
        matrix.bias = nn.Parameter(_weights(rows, start=start + 7, dtype=dtype))
    return matrix
