"""Differentiation of softmax_glu."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops
from fused_acts._autograd import decompositions, dispatch


class _SoftmaxGlu(torch.autograd.Function):
    @staticmethod
    def forward(gate: Tensor, up: Tensor) -> Any:
        return _ops.current().softmax_glu_forward(gate, up)

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
        # The backward pass is linear in grad_out, so its transpose is the forward derivative.
        with dispatch.lift_primals(ctx.saved_tensors) as (gate, up, *_):
            inputs = torch.zeros_like(gate), gate, up
            return decompositions.vjp(_decomposed_gradients, inputs, tangents)[0], None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return softmax_glu(*dispatch.batch_first(info, in_dims, args)), (0, 0)


class _SoftmaxGluGrad(torch.autograd.Function):
    """The gradients by gate and up. stats is a function of gate, and not asked for its gradient."""

    @staticmethod
    def forward(
        grad_out: Tensor, gate: Tensor, up: Tensor, stats: Tensor, needs_gate: bool, needs_up: bool
    ) -> Any:
        operator = _ops.current().softmax_glu_backward
        grads = operator(grad_out, gate, up, stats, needs_gate, needs_up)
        return grads[0] if needs_gate else None, grads[1] if needs_up else None

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.needs = inputs[4:]
        ctx.save_for_backward(*inputs[:3])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> Any:
        grads = decompositions.vjp(_decomposed_gradients, ctx.saved_tensors, grad_grads)
        return *grads, None, None, None


class _SoftmaxGluGradTransformable(_SoftmaxGluGrad):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _SoftmaxGluGrad.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:3])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        # The gradients are derivatives of sum(grad_out * out), whose second derivatives are
        # symmetric: by gate and up, the forward derivative is the backward one. One rounding.
        with dispatch.lift_primals(ctx.saved_tensors) as inputs:
            real = torch.promote_types(inputs[1].dtype, torch.float32)
            grad_out, gate, up = (t.to(real) for t in inputs)
            seed, *along = (None if t is None else t.to(real) for t in tangents[:3])
            wide = decompositions.vjp(_decomposed_gradients, (grad_out, gate, up), along)[1:]
            if seed is not None:
                linear = _decomposed_gradients(seed, gate, up)
                wide = [b if a is None else a + b for a, b in zip(wide, linear, strict=True)]
            dtype = inputs[1].dtype
        return tuple(
            t.to(dtype) if t is not None and need else None
            for t, need in zip(wide, ctx.needs, strict=True)
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        grads = _softmax_glu_grad(*dispatch.batch_first(info, in_dims[:4], args[:4]), *args[4:])
        return grads, tuple(None if grad is None else 0 for grad in grads)


def _softmax(gate: Tensor) -> Tensor:
    """In the type of the arithmetic."""
    return torch.softmax(gate.to(torch.promote_types(gate.dtype, torch.float32)), -1)


def _decomposed(gate: Tensor, up: Tensor) -> tuple[Tensor, None]:
    p = _softmax(gate)
    return (p * up.to(p.dtype)).to(gate.dtype), None


def _decomposed_gradients(grad_out: Tensor, gate: Tensor, up: Tensor, *_: Any) -> Any:
    """grad_gate = p * (grad_out * up - sum(p * grad_out * up)), grad_up = p * grad_out"""
    p = _softmax(gate)
    seed = grad_out.to(p.dtype)
    along = seed * up.to(p.dtype)
    grad_gate = p * (along - (p * along).sum(-1, keepdim=True))
    return grad_gate.to(gate.dtype), (p * seed).to(gate.dtype)


def _decomposed_recorded(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return _decomposed(gate, up)[0], _ops.softmax_glu_forward(gate, up)[1]


dispatch.register_recorded(
    _ops.softmax_glu,
    _SoftmaxGlu.backward,
    _SoftmaxGlu.setup_context,
    _decomposed_recorded,
    of_rows=2,
)

softmax_glu: Callable[..., tuple[Tensor, Tensor | None]] = dispatch.dispatcher(
    _SoftmaxGlu,
    _SoftmaxGluTransformable,
    _decomposed,
    dispatch.entry(_SoftmaxGlu, _SoftmaxGluTransformable, _decomposed, _ops.softmax_glu),
)
_softmax_glu_grad: Callable[..., dispatch.Gradients] = dispatch.dispatcher(
    _SoftmaxGluGrad, _SoftmaxGluGradTransformable, _decomposed_gradients
)
