"""softmax_glu and its derivatives, and softmax."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops, composed, dispatch, reference

softmax_glu_forward = torch.ops.fused_acts.softmax_glu_forward.default
softmax_glu_backward = torch.ops.fused_acts.softmax_glu_backward.default


class _SoftmaxGlu(torch.autograd.Function):
    @staticmethod
    def forward(gate: Tensor, up: Tensor) -> Any:
        return softmax_glu_forward(gate, up)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, _: None) -> Any:
        if grad_out is None:
            return None, None
        return _softmax_glu_grad(grad_out, *ctx.saved_tensors, *ctx.needs_input_grad)


class _SoftmaxGluTransformable(_SoftmaxGlu):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _SoftmaxGlu.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        with dispatch.next_level(ctx.saved_tensors) as (gate, up, *_):
            return _tangent_of_out(gate, up, *tangents), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _softmax_glu(*dispatch.batch_first(info, in_dims, args)), (0, 0)


class _SoftmaxGluGrad(torch.autograd.Function):
    """The gradients by gate and up. stats is a function of gate, and not asked for its gradient."""

    @staticmethod
    def forward(
        grad_out: Tensor, gate: Tensor, up: Tensor, stats: Tensor, needs_gate: bool, needs_up: bool
    ) -> Any:
        grads = softmax_glu_backward(grad_out, gate, up, stats, needs_gate, needs_up)
        return grads[0] if needs_gate else None, grads[1] if needs_up else None

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.needs = inputs[4:]
        ctx.save_for_backward(*inputs[:3])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> Any:
        grads = composed.vjp(_plain_gradients, ctx.saved_tensors, grad_grads)
        return *grads, None, None, None


class _SoftmaxGluGradTransformable(_SoftmaxGluGrad):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _SoftmaxGluGrad.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:3])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        with dispatch.next_level(ctx.saved_tensors) as inputs:
            along = _tangents_of_gradients(*inputs, *tangents[:3])
        return tuple(t if need else None for t, need in zip(along, ctx.needs, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        grads = _softmax_glu_grad(*dispatch.batch_first(info, in_dims[:4], args[:4]), *args[4:])
        return grads, tuple(None if grad is None else 0 for grad in grads)


def _weights(gate: Tensor, tangent: Tensor | None) -> tuple[Tensor, Tensor]:
    """p = softmax(gate) and its tangent, in the type of the arithmetic."""
    p = torch.softmax(gate.to(torch.promote_types(gate.dtype, torch.float32)), -1)
    return p, torch.zeros_like(p) if tangent is None else _centred(p, tangent.to(p.dtype))


def _centred(p: Tensor, x: Tensor) -> Tensor:
    """p * (x - sum(p * x))"""
    return p * (x - (p * x).sum(-1, keepdim=True))


def _tangent_of_out(
    gate: Tensor, up: Tensor, gate_tangent: Tensor | None, up_tangent: Tensor | None
) -> Tensor:
    p, p_tangent = _weights(gate, gate_tangent)
    tangent = p_tangent * up.to(p.dtype)
    if up_tangent is not None:
        tangent = tangent + p * up_tangent.to(p.dtype)
    return tangent.to(gate.dtype)


def _tangents_of_gradients(
    grad_out: Tensor, gate: Tensor, up: Tensor, *tangents: Tensor | None
) -> tuple[Tensor, Tensor]:
    p, p_tangent = _weights(gate, tangents[1])
    seed, factor = grad_out.to(p.dtype), up.to(p.dtype)
    seed_tangent, factor_tangent = (
        torch.zeros_like(p) if t is None else t.to(p.dtype) for t in (tangents[0], tangents[2])
    )
    product = seed * factor
    along = seed_tangent * factor + seed * factor_tangent
    mean = (p * product).sum(-1, keepdim=True)
    by_gate = p_tangent * (product - mean) + _centred(p, along)
    by_gate = by_gate - p * (p_tangent * product).sum(-1, keepdim=True)
    by_up = p_tangent * seed + p * seed_tangent
    return by_gate.to(gate.dtype), by_up.to(gate.dtype)


def _plain_gradients(grad_out: Tensor, gate: Tensor, up: Tensor, *_: Any) -> Any:
    p = _weights(gate, None)[0]
    grad_up = p * grad_out.to(p.dtype)
    grad_gate = _centred(p, grad_out.to(p.dtype) * up.to(p.dtype))
    return grad_gate.to(gate.dtype), grad_up.to(gate.dtype)


def _plain_softmax_glu(gate: Tensor, up: Tensor) -> tuple[Tensor, None]:
    return reference.softmax_glu(gate, up), None


_softmax_glu: Callable[..., tuple[Tensor, Tensor | None]] = dispatch.dispatcher(
    _SoftmaxGlu, _SoftmaxGluTransformable, _plain_softmax_glu, dispatch.require_grad
)
_softmax_glu_grad: Callable[..., dispatch.Gradients] = dispatch.dispatcher(
    _SoftmaxGluGrad, _SoftmaxGluGradTransformable, _plain_gradients, dispatch.require_grad
)


def softmax_glu(gate: Tensor, up: Tensor) -> Tensor:
    """out_i = exp(gate_i) / sum(exp(gate)) * up_i, the sum over the last dimension.

    A gated linear unit whose gates are in competition: the softmax of Bridle 1990, its maximum and
    sum found in one go as in Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867. One
    kernel forward and one backward, for which gate, up and two numbers a row are kept; no
    probability reaches memory. Derivatives of higher order and of forward mode are composed of
    torch's operations.

    Args:
        gate: [..., cols], float64, float32, float16 or bfloat16, on the CPU or a CUDA device. Any
            row stride is read in place.
        up: [..., cols], of the shape, dtype and device of gate.

    Returns:
        [..., cols] in the dtype of gate, contiguous. Computed in float32, or in float64 for
        float64, and rounded once; a probability below the smallest normal number of that may count
        as 0. A row of -inf alone, or with +inf or NaN in it, is NaN, as in torch.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of gate.
        ValueError: a shape or device does not match, or gate is 0-d.
    """
    for name, tensor in (("gate", gate), ("up", up)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if dispatch.autocasts(gate):
        gate, up = dispatch.promoted(gate, up)  # type: ignore[assignment]
    _ops.out_shape(gate, up, 0)
    return dispatch.on_shards(_softmax_glu, gate, up)[0]


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along a dimension: torch.softmax itself.

    A single kernel in torch already, so there is nothing here to fuse.

    Args:
        x: any shape and dtype that torch.softmax takes.
        dim: the dimension to sum over.

    Returns:
        A tensor of the shape and dtype of x.
    """
    return torch.softmax(x, dim)


def _fake_stats(gate: Tensor) -> Tensor:
    real = torch.promote_types(gate.dtype, torch.float32)
    return gate.new_empty((*gate.shape[:-1], 2), dtype=real)


def _fake_softmax_glu_forward(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(_ops.out_shape(gate, up, 0)), _fake_stats(gate)


def _fake_softmax_glu_backward(
    grad_out: Tensor, gate: Tensor, up: Tensor, stats: Tensor, needs_gate: bool, needs_up: bool
) -> tuple[Tensor, Tensor]:
    _ops.check_matches("grad_out", grad_out, _ops.out_shape(gate, up, 0), gate)
    expected = _fake_stats(gate)
    _ops.check_matches("stats", stats, expected.shape, expected)
    grad_gate = gate.new_empty(gate.shape if needs_gate else 0)
    return grad_gate, gate.new_empty(gate.shape if needs_up else 0)


torch.library.register_fake(softmax_glu_forward, _fake_softmax_glu_forward)
torch.library.register_fake(softmax_glu_backward, _fake_softmax_glu_backward)
