"""Who is measured: one small adapter each. All compute f(gate) * g(up) on the same tensors."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_acts
from fused_acts import tables

OURS = "fused-acts"
EAGER = "eager"
COMPILED = "torch.compile"

# What one writes with torch for functions of the tables; for others, the function itself.
ACTIVATIONS: dict[Callable[..., Tensor], Callable[[Tensor], Tensor]] = {
    tables.relu: F.relu,
    tables.gelu: F.gelu,
    tables.gelu_tanh: partial(F.gelu, approximate="tanh"),
    tables.sigmoid: torch.sigmoid,
    tables.tanh: torch.tanh,
}
# And for those with a parameter, (function, its value).
PARAMETRIC: dict[tuple[Callable[..., Tensor], float], Callable[[Tensor], Tensor]] = {
    (tables.swish, 1.0): F.silu,
    (tables.elu, 1.0): F.elu,
    (tables.leaky_relu, 0.01): F.leaky_relu,
}

SPLITS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "gate_up": lambda x: x.chunk(2, dim=-1),
    "up_gate": lambda x: x.chunk(2, dim=-1)[::-1],
    "interleaved": lambda x: (x[..., ::2], x[..., 1::2]),
}


@dataclass(frozen=True)
class Competitor:
    """`fresh(*tensors)` allocates its output; `given(*tensors, out=out)` writes into `out`.

    tensors: (gate, up) or (x,). `given` is None where the competitor cannot do that.
    """

    name: str
    fresh: Callable[..., Tensor]
    given: Callable[..., object] | None = None
    backward: bool = True
    # Its backward writes gradients over the inputs, so it must have inputs of its own.
    overwrites_inputs: bool = False


@dataclass(frozen=True)
class Form:
    """What an adapter must compute, and where."""

    variant: str
    layout: str
    dtype: torch.dtype
    device: torch.device


def ours(form: Form) -> Competitor:
    function = getattr(fused_acts, form.variant)
    if form.layout != "separate":
        function = partial(function, layout=form.layout)
    return Competitor(OURS, fresh=function, given=function)


def activation(row: tables.Variant) -> Callable[[Tensor], Tensor]:
    """f as one writes it with torch, of x alone."""
    f, parameters = row.eager or row.f, tables.of_gate(row, (*row.parameters.values(),))
    if not parameters:
        return ACTIVATIONS.get(row.f, row.f)
    return PARAMETRIC.get((row.f, *parameters), lambda x: f(x, *parameters))


def eager(form: Form) -> Competitor:
    """The composition as people write it: `F.silu(gate) * up`, packed inputs by chunk or slices."""
    row = tables.VARIANTS[form.variant]
    of_up = tables.of_up(row, (*row.parameters.values(),))
    act, limit = activation(row), row.limit
    up_act = partial(row.g, cap=of_up[0]) if of_up else ACTIVATIONS.get(row.g, row.g)

    def operands(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        if limit is not None:
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return act(gate), up_act(up)

    if limit is None and row.g is tables.identity:

        def product(gate: Tensor, up: Tensor) -> Tensor:
            return act(gate) * up

        def product_into(gate: Tensor, up: Tensor, out: Tensor) -> Tensor:
            return torch.mul(act(gate), up, out=out)
    else:

        def product(gate: Tensor, up: Tensor) -> Tensor:
            f, g = operands(gate, up)
            return f * g

        def product_into(gate: Tensor, up: Tensor, out: Tensor) -> Tensor:
            return torch.mul(*operands(gate, up), out=out)

    if form.layout == "separate":
        return Competitor(EAGER, product, product_into)
    split = SPLITS[form.layout]

    def fresh(x: Tensor) -> Tensor:
        gate, up = split(x)
        return product(gate, up)

    def given(x: Tensor, out: Tensor) -> Tensor:
        gate, up = split(x)
        return product_into(gate, up, out)

    return Competitor(EAGER, fresh, given)


def compiled(form: Form, dynamic: bool) -> Competitor:
    """torch.compile of the eager composition."""
    expression = eager(form)
    assert expression.given is not None
    return Competitor(
        COMPILED,
        fresh=torch.compile(expression.fresh, dynamic=dynamic, fullgraph=True),
        given=torch.compile(expression.given, dynamic=dynamic, fullgraph=True),
    )


def torch_glu(form: Form) -> Competitor | None:
    """torch's own fused GLU, which gates by the second half."""
    if (form.variant, form.layout) != ("glu", "up_gate"):
        return None
    return Competitor("F.glu", F.glu)


def liger(form: Form) -> Competitor | None:
    names = {"swiglu": "liger_swiglu", "geglu_tanh": "liger_geglu"}
    if form.device.type != "cuda" or form.layout != "separate" or form.variant not in names:
        return None
    functional = importlib.import_module("liger_kernel.transformers.functional")
    function = getattr(functional, names[form.variant])
    return Competitor("Liger", function, overwrites_inputs=True)


AND_MUL = {"swiglu": "silu_and_mul", "geglu": "gelu_and_mul", "geglu_tanh": "gelu_tanh_and_mul"}


def flashinfer(form: Form) -> Competitor | None:
    if form.device.type != "cuda" or form.layout != "gate_up" or form.variant not in AND_MUL:
        return None
    function = getattr(importlib.import_module("flashinfer.activation"), AND_MUL[form.variant])
    return Competitor("FlashInfer", function, function, backward=False)


def vllm(form: Form) -> Competitor | None:
    if form.layout != "gate_up" or form.variant not in AND_MUL:
        return None
    importlib.import_module("vllm._custom_ops")  # registers torch.ops._C
    function = getattr(torch.ops._C, AND_MUL[form.variant])

    def given(x: Tensor, out: Tensor) -> Tensor:
        function(out, x)
        return out

    def fresh(x: Tensor) -> Tensor:
        return given(x, x.new_empty(*x.shape[:-1], x.shape[-1] // 2))

    return Competitor("vLLM", fresh, given, backward=False)


def flash_attn(form: Form) -> Competitor | None:
    if form.device.type != "cuda" or form.layout != "separate" or form.variant != "swiglu":
        return None
    return Competitor("flash-attn", importlib.import_module("flash_attn.ops.activations").swiglu)


# Package -> adapter. xFormers is not here: its SwiGLU is fused with the projections around it.
PEERS: dict[str, Callable[[Form], Competitor | None]] = {
    "liger_kernel": liger,
    "flashinfer": flashinfer,
    "vllm": vllm,
    "flash_attn": flash_attn,
}


def missing_peers() -> list[str]:
    return [package for package in PEERS if find_spec(package) is None]


def build_competitors(
    form: Form, compile_mode: str = "dynamic"
) -> tuple[list[Competitor], dict[str, str]]:
    """Everyone that can compute `form` here, and why the others that are installed cannot.

    compile_mode: "dynamic" (one compilation serves all sizes), "static" or "off".
    """
    built: list[Competitor | None] = [ours(form), eager(form)]
    failures: dict[str, str] = {}
    if compile_mode != "off":
        torch._dynamo.reset()  # its cache of recompilations is per function and small
        built.append(compiled(form, dynamic=compile_mode == "dynamic"))
    built.append(torch_glu(form))
    for package, adapter in PEERS.items():
        if find_spec(package) is None:
            continue
        try:
            built.append(adapter(form))
        except Exception as error:  # a package that does not load here must not end the run
            failures[package] = f"{type(error).__name__}: {error}"
    return [competitor for competitor in built if competitor is not None], failures
