"""The forms of gated MLPs and experts in models, and their forwards with a fused gate.

Whether a module has a form is tried, see _trial.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fused_acts._autograd.context import promoted
from fused_acts.integrations._classes import own_forward

# Where a module has its activation; one that has none of these has it in the code of its forward.
ACTIVATIONS = ("act_fn", "activation_fn", "act", "activation")


class Form(NamedTuple):
    """The attributes of an MLP that computes down(dropout(activation(gate(x)) * up(x)))."""

    gate: str
    up: str | None  # None: gate makes both
    down: str
    dropout: str | None = None
    casts: bool = False  # whether the product takes the dtype of the weight of down
    written: bool = False  # whether the activation may be in the code of the forward


FORMS = (
    Form("gate_proj", "up_proj", "down_proj", "dropout"),  # T5Gemma
    Form("gate_proj", "up_proj", "down_proj"),  # Llama, Mistral, Qwen, Gemma, OLMo
    Form("gate_up_proj", None, "down_proj", written=True),  # Phi-3, GLM; MiniMax M3
    Form("input_linear", None, "output_linear"),  # Granite
    Form("w1", "w3", "w2", written=True),  # LFM2
    Form("wi_0", "wi_1", "wo", "dropout", casts=True),  # T5 v1.1
    Form("Wi", None, "Wo", "drop"),  # ModernBERT
)


def form_of(module: nn.Module) -> Form | None:
    for form in FORMS:
        parts = {form.gate, form.up or form.gate, form.down, form.dropout or form.down}
        if parts <= module._modules.keys() and (form.written or activation_of(module)):
            return form
    return None


def activation_of(module: nn.Module) -> str | None:
    """The name of its attribute."""
    return next((name for name in ACTIVATIONS if hasattr(module, name)), None)


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
    return own_forward(module)(hidden_states, top_k_index, top_k_weights)


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
