"""Differentiation of the gated units: autograd Functions over torch.ops.fused_acts.*.

In all of them up is None when gate is a packed x: [..., 2 * cols], and so is the gradient of up.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fused_acts import _ops, composed, reference
from fused_acts._ops import LAYOUTS


def _dispatcher(
    function: Any,
    transformable: Any,
    plain: Callable[..., Any],
    bare: Callable[..., Any],
    requires_grad: Callable[..., bool],
) -> Callable[..., Any]:
    """One differentiable call that takes the cheapest path that is right where it is called.

    function has a backward formula; transformable has jvp and vmap formulas too; plain is composed
    of torch operations; bare, without any formula, does for calls that record nothing.
    """
    # Function.apply binds its arguments through `inspect`, which takes longer than the kernel on
    # small tensors; the C++ apply beneath it does all that is needed outside functorch transforms.
    raw_apply = super(torch.autograd.Function, function).apply
    is_compiling = torch.compiler.is_compiling
    transforms_active = torch._C._are_functorch_transforms_active
    is_grad_enabled = torch.is_grad_enabled

    def call(*args: Any) -> Any:
        if transforms_active() or forward_ad._current_level >= 0:
            # Dynamo takes no Function with a jvp, and in a transform sees no formula at all.
            return plain(*args) if is_compiling() else transformable.apply(*args)
        if is_compiling():
            return function.apply(*args)
        if is_grad_enabled() and requires_grad(*args):
            return raw_apply(*args)
        return bare(*args)

    return call


@contextmanager
def _next_level(tensors: Sequence[Tensor | None]) -> Iterator[Any]:
    """Lets the body of a jvp formula be differentiated forward by the transforms around it.

    Functions turn forward mode off in a jvp formula, for the levels around it too, and then their
    tangents would silently be zero. Yields the tensors without the tangents of the current level.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        yield [None if t is None else forward_ad.unpack_dual(t).primal for t in tensors]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _batch_first(
    info: Any, in_dims: Sequence[int | None], tensors: Sequence[Tensor | None]
) -> Iterator[Tensor | None]:
    """The tensors with the batch dimension in front; a tensor that has none is expanded."""
    for tensor, dim in zip(tensors, in_dims, strict=True):
        if tensor is None:
            yield None
        elif dim is None:
            yield tensor.expand(info.batch_size, *tensor.shape)
        elif tensor.dim() == 1:
            raise ValueError("gate: expected at least one dimension under vmap, got a 0-d tensor")
        else:
            yield tensor.movedim(dim, 0)


class _Glu(torch.autograd.Function):
    @staticmethod
    def forward(gate: Tensor, up: Tensor | None, variant: int, layout: int) -> Any:
        return _ops.glu_forward(gate, up, variant, layout)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        gate, up, ctx.variant, ctx.layout = inputs
        ctx.save_for_backward(gate, up)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None) -> Any:
        if grad_out is None:
            return None, None, None, None
        gate, up = ctx.saved_tensors
        needs_gate, needs_up, _, _ = ctx.needs_input_grad
        grads = glu_backward(grad_out, gate, up, ctx.variant, ctx.layout, needs_gate, needs_up)
        return *grads, None, None


class _GluTransformable(_Glu):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _Glu.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        # The backward pass is linear in grad_out, so its transpose is the forward derivative,
        # whatever grad_out is.
        with _next_level(ctx.saved_tensors) as (gate, up):
            grad_out = gate if up is not None else reference.halves(gate, LAYOUTS[ctx.layout])[0]
            return composed.glu_double_backward(
                tangents[:2], grad_out, gate, up, ctx.variant, ctx.layout
            )[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        gate, up = _batch_first(info, in_dims[:2], args[:2])
        return glu_forward(gate, up, *args[2:]), 0


class _GluBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad_out: Tensor,
        gate: Tensor,
        up: Tensor | None,
        variant: int,
        layout: int,
        needs_gate: bool,
        needs_up: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        if up is None:
            return _ops.glu_backward_packed(grad_out, gate, variant, layout), None
        grad_gate, grad_up = _ops.glu_backward(grad_out, gate, up, variant, needs_gate, needs_up)
        return grad_gate if needs_gate else None, grad_up if needs_up else None

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        grad_out, gate, up, *ctx.options = inputs
        ctx.save_for_backward(grad_out, gate, up)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> Any:
        grad_out, gate, up = ctx.saved_tensors
        variant, layout, _, _ = ctx.options
        grads = composed.glu_double_backward(grad_grads, grad_out, gate, up, variant, layout)
        return *grads, None, None, None, None


class _GluBackwardTransformable(_GluBackward):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _GluBackward.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:3])

    @staticmethod
    def jvp(ctx: Any, grad_out_tangent: Tensor | None, *tangents: Tensor | None) -> Any:
        # grad_gate and grad_up are derivatives of sum(grad_out * out), whose second derivatives are
        # symmetric: by gate and up, the forward derivative is the backward one.
        variant, layout, *needs = ctx.options
        with _next_level(ctx.saved_tensors) as (grad_out, gate, up):
            _, *results = composed.glu_double_backward(
                tangents[:2], grad_out, gate, up, variant, layout
            )
            if grad_out_tangent is not None:
                linear = glu_backward(grad_out_tangent, gate, up, *ctx.options)
                results = [_sum(a, b) for a, b in zip(results, linear, strict=True)]
        return tuple(r if need else None for r, need in zip(results, needs, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        grad_out, gate, up = _batch_first(info, in_dims[:3], args[:3])
        grads = glu_backward(grad_out, gate, up, *args[3:])
        return grads, tuple(None if grad is None else 0 for grad in grads)


def _inputs_require_grad(gate: Tensor, up: Tensor | None, *_: Any) -> bool:
    return gate.requires_grad or (up is not None and up.requires_grad)


glu_forward: Callable[..., Tensor] = _dispatcher(
    _Glu, _GluTransformable, composed.glu_forward, _ops.glu_forward._op, _inputs_require_grad
)
glu_backward: Callable[..., tuple[Tensor | None, Tensor | None]] = _dispatcher(
    _GluBackward,
    _GluBackwardTransformable,
    composed.glu_backward,
    _GluBackward.forward,
    lambda grad_out, *inputs: grad_out.requires_grad or _inputs_require_grad(*inputs),
)


def _has_tangent(tensor: Tensor | None) -> bool:
    return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None


def glu_forward_out(
    gate: Tensor, up: Tensor | None, variant: int, layout: int, out: Tensor
) -> Tensor:
    """Writes into out; autograd does not record it, so no argument may ask for a derivative."""
    if (torch.is_grad_enabled() and (out.requires_grad or _inputs_require_grad(gate, up))) or (
        forward_ad._current_level >= 0 and any(map(_has_tangent, (gate, up, out)))
    ):
        raise RuntimeError(
            "out: expected no argument that requires grad or has a tangent, because out= is not "
            "differentiable; call it under torch.no_grad() or without out="
        )
    _ops.glu_forward_out(gate, up, variant, layout, out)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(out)
    return out
