"""Differentiation of maxout."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops
from fused_acts._autograd import dispatch


def _select(x: Tensor, winner: Tensor, pieces: int) -> Tensor:
    """x: [..., cols * pieces] -> [..., cols], of each group the one that winner names."""
    groups: Tensor = x.unflatten(-1, (winner.shape[-1], pieces))
    return groups.gather(-1, winner.long().unsqueeze(-1)).squeeze(-1)


class _Maxout(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, pieces: int) -> Any:
        return _ops.current().maxout_forward(x, pieces)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.pieces = inputs[1]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, _: None) -> Any:
        if grad_out is None:
            return None, None
        return _maxout_spread(grad_out, *ctx.saved_tensors, ctx.pieces), None


class _MaxoutTransformable(_Maxout):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _Maxout.setup_context(ctx, inputs, output)
        ctx.save_for_forward(output[1])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, _: None) -> Any:
        with dispatch.lift_primals(ctx.saved_tensors) as (winner,):
            return None if tangent is None else _select(tangent, winner, ctx.pieces), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, pieces: int) -> Any:
        (x,) = dispatch.batch_first(info, in_dims[:1], (x,))  # type: ignore[assignment]
        return maxout(x, pieces), (0, 0)


class _MaxoutSpread(torch.autograd.Function):
    """The transpose of _select, linear in grad_out."""

    @staticmethod
    def forward(grad_out: Tensor, winner: Tensor, pieces: int) -> Any:
        return _ops.current().maxout_backward(grad_out, winner, pieces)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.pieces = inputs[2]
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> Any:
        (winner,) = ctx.saved_tensors
        return _select(grad_x, winner, ctx.pieces), None, None


class _MaxoutSpreadTransformable(_MaxoutSpread):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _MaxoutSpread.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Any:
        with dispatch.lift_primals(ctx.saved_tensors) as (winner,):
            return _maxout_spread(tangent, winner, ctx.pieces)

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad_out: Tensor, winner: Tensor, pieces: int) -> Any:
        tensors = dispatch.batch_first(info, in_dims[:2], (grad_out, winner))
        return _maxout_spread(*tensors, pieces), 0


def _decomposed(x: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    values, winner = x.unflatten(-1, (x.shape[-1] // pieces, pieces)).max(-1)
    return values, winner.to(torch.uint8)


def _decomposed_spread(grad_out: Tensor, winner: Tensor, pieces: int) -> Tensor:
    places = torch.arange(pieces, device=winner.device, dtype=winner.dtype)
    return torch.where(winner.unsqueeze(-1) == places, grad_out.unsqueeze(-1), 0.0).flatten(-2)


dispatch.register_recorded(
    _ops.maxout, _Maxout.backward, _Maxout.setup_context, _decomposed, of_rows=1
)

maxout: Callable[..., tuple[Tensor, Tensor]] = dispatch.dispatcher(
    _Maxout,
    _MaxoutTransformable,
    _decomposed,
    dispatch.entry(_Maxout, _MaxoutTransformable, _decomposed, _ops.maxout),
)
_maxout_spread: Callable[..., Tensor] = dispatch.dispatcher(
    _MaxoutSpread, _MaxoutSpreadTransformable, _decomposed_spread
)
