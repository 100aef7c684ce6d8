"""Maxout and its derivatives."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops, dispatch
from fused_acts.options import ALONE

maxout_forward = torch.ops.fused_acts.maxout_forward.default
maxout_backward = torch.ops.fused_acts.maxout_backward.default

MOST_PIECES = 256  # a winner is a byte


def _select(x: Tensor, winner: Tensor, pieces: int) -> Tensor:
    """x: [..., cols * pieces] -> [..., cols], of each group the one that winner names."""
    groups: Tensor = x.unflatten(-1, (winner.shape[-1], pieces))
    return groups.gather(-1, winner.long().unsqueeze(-1)).squeeze(-1)


class _Maxout(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, pieces: int) -> Any:
        return maxout_forward(x, pieces)

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
        with dispatch.next_level(ctx.saved_tensors) as (winner,):
            return None if tangent is None else _select(tangent, winner, ctx.pieces), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, pieces: int) -> Any:
        (x,) = dispatch.batch_first(info, in_dims[:1], (x,))  # type: ignore[assignment]
        return _maxout(x, pieces), (0, 0)


class _MaxoutSpread(torch.autograd.Function):
    """The transpose of _select, linear in grad_out."""

    @staticmethod
    def forward(grad_out: Tensor, winner: Tensor, pieces: int) -> Any:
        return maxout_backward(grad_out, winner, pieces)

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
        with dispatch.next_level(ctx.saved_tensors) as (winner,):
            return _maxout_spread(tangent, winner, ctx.pieces)

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad_out: Tensor, winner: Tensor, pieces: int) -> Any:
        tensors = dispatch.batch_first(info, in_dims[:2], (grad_out, winner))
        return _maxout_spread(*tensors, pieces), 0


def _plain_maxout(x: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    values, winner = x.unflatten(-1, (x.shape[-1] // pieces, pieces)).max(-1)
    return values, winner.to(torch.uint8)


def _plain_spread(grad_out: Tensor, winner: Tensor, pieces: int) -> Tensor:
    places = torch.arange(pieces, device=winner.device, dtype=winner.dtype)
    return torch.where(winner.unsqueeze(-1) == places, grad_out.unsqueeze(-1), 0.0).flatten(-2)


_maxout: Callable[..., tuple[Tensor, Tensor]] = dispatch.dispatcher(
    _Maxout, _MaxoutTransformable, _plain_maxout, dispatch.require_grad
)
_maxout_spread: Callable[..., Tensor] = dispatch.dispatcher(
    _MaxoutSpread, _MaxoutSpreadTransformable, _plain_spread, dispatch.require_grad
)


def check_integer(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")


def check_pieces(pieces: int) -> None:
    if not 1 <= pieces <= MOST_PIECES:
        raise ValueError(f"pieces: expected 1 to {MOST_PIECES}, got {pieces}")


def _check_groups(x: Tensor, pieces: int, dim: int) -> None:
    if x.shape[dim] % pieces:
        raise ValueError(
            f"x: expected a dimension {dim} divisible by pieces = {pieces}, got shape "
            f"{tuple(x.shape)}"
        )


def maxout(x: Tensor, pieces: int, dim: int = -1) -> Tensor:
    """out_i = max(x_j over i * pieces <= j < (i + 1) * pieces), along a dimension.

    From Goodfellow et al. 2013, "Maxout Networks", https://arxiv.org/abs/1302.4389. What is kept
    for the backward pass is a byte for each result, the index of the winner in its group, and the
    gradient goes to the winner: the first of equal ones, as in torch.max. NaN wins.

    Args:
        x: [..., cols * pieces], float64, float32, float16 or bfloat16, on the CPU or a CUDA device.
            Any row stride is read in place.
        pieces: how many neighbours make a group, 1 to 256.
        dim: the dimension to reduce. One that is not the last is moved there first, in a copy.

    Returns:
        [..., cols] in the dtype of x: the values of torch.max, bit for bit. Contiguous if dim is
        the last dimension.

    Raises:
        TypeError: x is no tensor or of another dtype, or pieces or dim is no integer.
        ValueError: pieces is out of range or does not divide the dimension, or x is 0-d.
        IndexError: x has no dimension dim.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}")
    check_integer("pieces", pieces)
    check_integer("dim", dim)
    _ops.out_shape(x, None, ALONE)
    check_pieces(pieces)
    if not -x.dim() <= dim < x.dim():
        raise IndexError(f"dim: expected {-x.dim()} to {x.dim() - 1}, got {dim}")
    _check_groups(x, pieces, dim)
    rows = x if dim in (-1, x.dim() - 1) else x.movedim(dim, -1)
    out, _ = dispatch.on_shards(_maxout, rows, pieces)
    return out if rows is x else out.movedim(-1, dim)


def _fake_maxout_forward(x: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    *rows, width = _ops.out_shape(x, None, ALONE)
    check_pieces(pieces)
    _check_groups(x, pieces, -1)
    shape = (*rows, width // pieces)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.uint8)


def _fake_maxout_backward(grad_out: Tensor, winner: Tensor, pieces: int) -> Tensor:
    check_pieces(pieces)
    expected = grad_out.new_empty(grad_out.shape, dtype=torch.uint8)
    _ops.check_matches("winner", winner, expected.shape, expected)
    *rows, cols = grad_out.shape
    return grad_out.new_empty((*rows, cols * pieces))


torch.library.register_fake(maxout_forward, _fake_maxout_forward)
torch.library.register_fake(maxout_backward, _fake_maxout_backward)
