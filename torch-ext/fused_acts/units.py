"""out = f(gate) * g(up), and f(x) alone, with the derivative registered to one operator."""

from __future__ import annotations  # for Python 3.9, which the Hub asks for

from typing import Any

import torch
from torch import Tensor

from ._ops import add_op_namespace_prefix, ops

# The operators take rows of these tables, one after the other, and layouts by their index.
_VARIANTS = [line.split()[0] for line in ops.info_variants().splitlines()]
_ACTIVATIONS = [line.split()[0] for line in ops.info_activations().splitlines()]
_ROWS = {name: index for index, name in enumerate(_VARIANTS + _ACTIVATIONS)}
_LAYOUTS = {"gate_up": 0, "up_gate": 1, "interleaved": 2}
_VARIANT, _LAYOUT = 7, 8  # among the options of an operator


@torch.library.register_fake(add_op_namespace_prefix("gated"))
def _gated_fake(gate: Tensor, up: Tensor | None, *options: Any) -> Tensor:
    packed = up is None and options[_VARIANT] < len(_VARIANTS)
    if not packed:
        return torch.empty_like(gate, memory_format=torch.contiguous_format)
    return gate.new_empty((*gate.shape[:-1], gate.shape[-1] // 2))


@torch.library.register_fake(add_op_namespace_prefix("glu_backward_options"))
def _glu_backward_options_fake(
    grad_out: Tensor, gate: Tensor, up: Tensor | None, *options: Any
) -> Any:
    needs = options[_LAYOUT + 1]
    grad_gate = gate.new_empty(gate.shape if needs & 1 else 0)
    grad_up = gate.new_empty(gate.shape if needs & 2 and up is not None else 0)
    return grad_gate, grad_up, *(gate.new_empty(0) for _ in range(4))


def _setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
    gate, up, *options = inputs
    ctx.numbers = options[3 : _LAYOUT + 1]
    ctx.save_for_backward(gate, up)


def _backward(ctx: Any, grad_out: Tensor) -> Any:
    gate, up = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    needs = wanted[0] + 2 * wanted[1]
    grad_gate, grad_up, *_ = ops.glu_backward_options(
        grad_out, gate, up, None, None, None, *ctx.numbers, needs
    )
    grads = (grad_gate if wanted[0] else None, grad_up if wanted[1] else None)
    return (*grads, *(None,) * len(ctx.needs_input_grad[2:]))


torch.library.register_autograd(
    add_op_namespace_prefix("gated"), _backward, setup_context=_setup_context
)


def gated(
    gate: Tensor,
    up: Tensor | None = None,
    variant: str = "swiglu",
    layout: str = "gate_up",
    parameter: float = 1.0,
    limit: float | None = None,
    second: float = 1.0,
    weight: float = 1.0,
) -> Tensor:
    """f(gate) * g(up), or f(gate) if `variant` is an activation.

    Args:
        gate: [..., cols]; without up [..., 2 * cols], gate and up packed in `layout`.
        up: [..., cols], of the dtype and device of gate.
        variant: a row of the tables, such as "swiglu" or "gelu".
        layout: "gate_up", "up_gate" or "interleaved".
        parameter: of f, where it has one: beta, alpha or slope.
        limit: min(gate, limit) and clamp(up, -limit, limit) first.
        second: the parameter of g, or of f the second one.
        weight: what the result is multiplied by.

    Returns:
        [..., cols], of the dtype of gate: float64, float32, float16 or bfloat16, rounded once.
    """
    numbers = parameter, second, limit, weight
    return ops.gated(gate, up, None, None, None, *numbers, _ROWS[variant], _LAYOUTS[layout])


def glu(gate: Tensor, up: Tensor | None = None, layout: str = "gate_up") -> Tensor:
    """sigmoid(gate) * up"""
    return gated(gate, up, "glu", layout)


def bilinear(gate: Tensor, up: Tensor | None = None, layout: str = "gate_up") -> Tensor:
    """gate * up"""
    return gated(gate, up, "bilinear", layout)


def reglu(gate: Tensor, up: Tensor | None = None, layout: str = "gate_up") -> Tensor:
    """max(gate, 0) * up"""
    return gated(gate, up, "reglu", layout)


def geglu(gate: Tensor, up: Tensor | None = None, layout: str = "gate_up") -> Tensor:
    """gelu(gate) * up"""
    return gated(gate, up, "geglu", layout)


def geglu_tanh(gate: Tensor, up: Tensor | None = None, layout: str = "gate_up") -> Tensor:
    """gelu(gate) * up, GELU by tanh"""
    return gated(gate, up, "geglu_tanh", layout)


def swiglu(gate: Tensor, up: Tensor | None = None, layout: str = "gate_up") -> Tensor:
    """gate * sigmoid(gate) * up"""
    return gated(gate, up, "swiglu", layout)


def swiglu_oai(
    gate: Tensor,
    up: Tensor | None = None,
    layout: str = "interleaved",
    alpha: float = 1.702,
    limit: float = 7.0,
) -> Tensor:
    """g * sigmoid(alpha * g) * (u + 1), g = min(gate, limit), u = clamp(up, -limit, limit)"""
    return gated(gate, up, "swiglu_oai", layout, alpha, limit)


def swish(x: Tensor, beta: float = 1.0) -> Tensor:
    """x * sigmoid(beta * x)"""
    return gated(x, None, "swish", parameter=beta)


def gelu(x: Tensor) -> Tensor:
    """GELU by the normal distribution."""
    return gated(x, None, "gelu")


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by tanh."""
    return gated(x, None, "gelu_tanh")


def quick_gelu(x: Tensor, alpha: float = 1.702) -> Tensor:
    """x * sigmoid(alpha * x)"""
    return gated(x, None, "quick_gelu", parameter=alpha)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) ** 2"""
    return gated(x, None, "squared_relu")
