"""The gated units and their derivatives composed of plain torch operations, from the reference.

What autograd and the functorch transforms make of the reference, they can differentiate to any
order and torch.compile can trace. As in autograd.py, up is None when gate is packed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fused_acts import reference
from fused_acts._ops import LAYOUTS, NAMES


def glu_forward(gate: Tensor, up: Tensor | None, variant: int, layout: int) -> Tensor:
    return reference.gated(gate, up, variant=NAMES[variant], layout=LAYOUTS[layout])


def glu_backward(
    grad_out: Tensor,
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: int,
    needs_gate: bool,
    needs_up: bool,
) -> tuple[Tensor | None, Tensor | None]:
    def forward(gate: Tensor, up: Tensor | None = None) -> Tensor:
        return glu_forward(gate, up, variant, layout)

    if up is None:
        return torch.func.vjp(forward, gate)[1](grad_out)[0], None
    grad_gate, grad_up = torch.func.vjp(forward, gate, up)[1](grad_out)
    return grad_gate if needs_gate else None, grad_up if needs_up else None


def glu_double_backward(
    grad_grads: Sequence[Tensor | None],
    grad_out: Tensor,
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: int,
) -> tuple[Tensor | None, ...]:
    """Gradients by (grad_out, gate, up) of the gradients (grad_gate, grad_up), in plain torch.

    grad_grads holds None for a gradient that has no part in it. Differentiable to any order.
    """
    cotangents = tuple(grad_grad for grad_grad in grad_grads if grad_grad is not None)
    if not cotangents:
        return None, None, None
    needs = [grad_grad is not None for grad_grad in grad_grads]

    def backward(grad_out: Tensor, gate: Tensor, up: Tensor | None = None) -> tuple[Tensor, ...]:
        grads = glu_backward(grad_out, gate, up, variant, layout, *needs)
        return tuple(grad for grad in grads if grad is not None)

    if up is None:
        return *torch.func.vjp(backward, grad_out, gate)[1](cotangents), None
    grads: tuple[Tensor, ...] = torch.func.vjp(backward, grad_out, gate, up)[1](cotangents)
    return grads
