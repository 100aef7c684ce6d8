"""The forms of gated MLPs and experts in models, and their forwards with a fused gate.

Whether a module has a form is tried: its own forward and the fused one run on the same numbers,
with small matrices in the place of the projections.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fused_acts._autograd.context import promoted
from fused_acts.integrations._classes import own_class


class Form(NamedTuple):
    """The attributes of an MLP that computes down(dropout(activation(gate(x)) * up(x)))."""

    gate: str
    up: str | None  # None: gate makes both
    activation: str
    down: str
    dropout: str | None = None
    casts: bool = False  # whether the product takes the dtype of the weight of down


FORMS = (
    Form("gate_proj", "up_proj", "act_fn", "down_proj", "dropout"),  # T5Gemma
    Form("gate_proj", "up_proj", "act_fn", "down_proj"),  # Llama, Mistral, Qwen, Gemma, OLMo
    Form("gate_up_proj", None, "activation_fn", "down_proj"),  # Phi-3, GLM
    Form("wi_0", "wi_1", "act", "wo", "dropout", casts=True),  # T5 v1.1
    Form("Wi", None, "act", "Wo", "drop"),  # ModernBERT
)


def form_of(module: nn.Module) -> Form | None:
    for form in FORMS:
        parts = {form.gate, form.up or form.gate, form.down, form.dropout or form.down}
        if hasattr(module, form.activation) and parts <= module._modules.keys():
            return form
    return None


def mlp(module: Any, *args: Any, form: Form, gate: Callable[..., Tensor], **kwargs: Any) -> Any:
    (x,) = (*args, *kwargs.values())
    projected = getattr(module, form.gate)(x)
    if form.up is None:
        product = gate(projected)
    else:
        product = gate(*promoted(projected, getattr(module, form.up)(x)))
    if form.dropout is not None:
        product = getattr(module, form.dropout)(product)
    down = getattr(module, form.down)
    # T5 keeps this weight in float32 in models of 16 bits; one in int8 is quantised.
    if form.casts and isinstance(down.weight, Tensor) and down.weight.dtype != torch.int8:
        product = product.to(down.weight.dtype)
    return down(product)


def experts(
    module: Any,
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    *,
    gate: Callable[[Tensor], Tensor],
) -> Any:
    """For classes whose eager implementation, alone of all, does not call module._apply_gate."""
    if module.config._experts_implementation in ("eager", None):
        return eager_experts(module, hidden_states, top_k_index, top_k_weights, gate=gate)
    return own_class(module).forward(module, hidden_states, top_k_index, top_k_weights)


def eager_experts(
    module: Any, x: Tensor, index: Tensor, weights: Tensor, *, gate: Callable[[Tensor], Tensor]
) -> Tensor:
    """x: [tokens, hidden]; index, weights: [tokens, k]. The index num_experts is no expert."""
    out = torch.zeros_like(x)
    for expert in index.unique():
        if expert == module.num_experts:
            continue
        k, token = torch.where(expert == index.T)
        product = gate(linear(x[token], module.gate_up_proj[expert]))
        y = linear(product, module.down_proj[expert]) * weights[token, k, None]
        out.index_add_(0, token, y.to(out.dtype))
    return out


def agree(
    own: Callable[..., Any],
    fused: Callable[..., Any],
    arguments: Callable[[torch.dtype], tuple[Any, ...]],
    exactly: bool,
) -> bool:
    """Whether both compute the same in float64, or exactly: bit for bit in smaller dtypes."""
    dtypes = (torch.bfloat16, torch.float32) if exactly else (torch.float64,)
    # Own forwards may drop out elements.
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        results = [(fused(*arguments(d)), own(*arguments(d))) for d in dtypes]
    return all((torch.equal if exactly else _close)(out, expected) for out, expected in results)


def _close(out: Tensor, expected: Tensor) -> bool:
    # Models write some activations with shortened constants; other activations are far away.
    return torch.allclose(out, expected, rtol=1e-9, atol=1e-9)


def small_mlp(module: nn.Module, form: Form, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """The module with matrices in the place of its projections and its dropout, and an input."""
    shapes = {form.gate: (3 if form.up else 6, 2), form.up: (3, 2), form.down: (2, 3)}
    shapes[form.dropout] = (3, 3)
    matrices = {
        name: _matrix(*shape, start=start, dtype=dtype)
        for start, (name, shape) in enumerate(shapes.items())
        if name is not None
    }
    x = rows(2, dtype).view(4, 16, 2)  # [batch, tokens, hidden], as models call it
    return _changed(module, _modules={**module._modules, **matrices}), x


def small_experts(module: nn.Module, dtype: torch.dtype) -> tuple[Any, ...]:
    """The module with two small experts, and an input some tokens of which go to no expert."""
    weights = {
        "gate_up_proj": _weights(2, 6, 2, start=1, dtype=dtype),
        "down_proj": _weights(2, 2, 3, start=2, dtype=dtype),
    }
    index = torch.arange(128, device="cpu").view(64, 2) % 3
    small = _changed(module, _parameters=weights, num_experts=2)
    return small, rows(2, dtype), index, _weights(64, 2, start=3, dtype=dtype)


def rows(cols: int, dtype: torch.dtype) -> Tensor:
    """[64, cols], of sizes from 0.01 to 10000, so that limits show."""
    sizes = torch.logspace(-2, 4, 64, dtype=torch.float64, device="cpu")
    return (sizes[:, None] * _weights(64, cols, start=1, dtype=torch.float64)).to(dtype)


def _weights(*shape: int, start: int, dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    steps = torch.arange(start, start + count, dtype=torch.float64, device="cpu")
    return steps.sin().view(shape).to(dtype)


def _matrix(rows: int, cols: int, start: int, dtype: torch.dtype) -> nn.Module:
    matrix = nn.Linear(cols, rows, bias=False, device="meta")
    matrix.weight = nn.Parameter(_weights(rows, cols, start=start, dtype=dtype))
    return matrix


def _changed(module: nn.Module, **attributes: Any) -> nn.Module:
    """Another module of its class that shares all else with it, in training."""
    changed = object.__new__(type(module))
    changed.__dict__.update({**vars(module), **attributes, "training": True})
    return changed
