"""What the feed-forward block and the experts, one autograd Function each, have in common."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fused_acts._call import Save, unknown

# What is kept for backward, in elements a token: d_model + 3 * d_ff, d_model + 2 * d_ff, d_model.
Recompute = Literal["none", "product", "all"]
RECOMPUTE: tuple[Recompute, ...] = get_args(Recompute)


def check_kept(recompute: str, save: Save | None) -> None:
    """Raises ValueError for another level, or one at which there is nothing to save."""
    if recompute not in RECOMPUTE:
        raise unknown("recompute", recompute, RECOMPUTE)
    if recompute == "all" and save is not None:
        raise ValueError(
            f"save: expected None with recompute='all', which keeps no gate and up, got {save!r}"
        )


def is_batched(tensor: Tensor) -> bool:
    """Whether several backward passes run as one: is_grads_batched, or vmap."""
    if torch.compiler.is_compiling():
        return False
    batched = torch._C._functorch
    return bool(batched.is_legacy_batchedtensor(tensor) or batched.is_batchedtensor(tensor))


def differentiable_backward(
    function: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    grad_y: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients by tensors of a function of them that consists of differentiable operations."""
    with torch.enable_grad():
        # By aliases: one input may be another one, or computed from it.
        aliases = [None if t is None else t.view_as(t) for t in tensors]
        y = function(*aliases)
    wanted: Any = [alias for alias, need in zip(aliases, needs, strict=True) if need]
    grads = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=torch.is_grad_enabled()))
    return tuple(next(grads) if need else None for need in needs)
