"""Differentiation of the gated units: autograd Functions over torch.ops.fused_acts.*.

`operands` stands for (gate, up, gate_bias, up_bias, parameter). In all of them up is None when gate
is a packed x: [..., 2 * cols] or the x of an activation, and so is the gradient of up.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fused_acts import _checks, _ops
from fused_acts._autograd import context, decompositions, dispatch
from fused_acts._autograd.dispatch import Gradients, require_grad
from fused_acts._autograd.gated_second import OPERANDS, double_backward
from fused_acts._call import Call


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


# Found once: a call on tiny tensors takes as long as a few dozen look-ups.
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled
_transforms_active = torch._C._are_functorch_transforms_active


def _kernel(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    call: Call,
    ops: Any = _ops.direct,
) -> Any:
    if not call.has_options:
        return ops.glu_forward(gate, up, call.variant, call.layout)
    if call.eager:
        return decompositions.forward(gate, up, gate_bias, up_bias, parameter, call)
    return ops.glu_forward_options(gate, up, gate_bias, up_bias, parameter, *call[:4])


class _Glu(torch.autograd.Function):
    @staticmethod
    def forward(
        gate: Tensor,
        up: Tensor | None,
        gate_bias: Tensor | None,
        up_bias: Tensor | None,
        parameter: Tensor | None,
        call: Call,
    ) -> Any:
        ops = _ops if _is_compiling() else _ops.direct
        return _kernel(gate, up, gate_bias, up_bias, parameter, call, ops)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        call = ctx.call = inputs[-1]
        # What is not there takes as long to save.
        ctx.save_for_backward(*inputs[: OPERANDS if call.has_options else 2])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None) -> Any:
        if grad_out is None:
            return (None,) * (OPERANDS + 1)
        needs = ctx.needs_input_grad[:OPERANDS]
        if ctx.call.inplace and not _is_compiling():
            return *_backward_inplace(ctx, grad_out, needs), None
        operands = (*ctx.saved_tensors, None, None, None)[:OPERANDS]
        return *glu_backward(grad_out, *operands, ctx.call, needs), None


class _GluTransformable(_Glu):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _Glu.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:OPERANDS])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        # The backward pass is linear in grad_out, so its transpose is the forward derivative.
        with dispatch.lift_primals(ctx.saved_tensors) as operands:
            return double_backward(tangents[:OPERANDS], None, operands, ctx.call, True, False)[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        if any(dim is not None for dim in in_dims[2:OPERANDS]):
            outputs, dims = dispatch.vmap_decomposition(
                lambda *inputs: (decompositions.forward(*inputs),), info, in_dims, args
            )
            return outputs[0], dims[0]
        gate, up = dispatch.batch_first(info, in_dims[:2], args[:2])
        return gated(gate, up, *args[2:]), 0  # type: ignore[arg-type]


class _GluBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad_out: Tensor,
        gate: Tensor,
        up: Tensor | None,
        gate_bias: Tensor | None,
        up_bias: Tensor | None,
        parameter: Tensor | None,
        call: Call,
        needs: tuple[bool, ...],
    ) -> Gradients:
        ops = _ops if _is_compiling() else _ops.direct
        grad_gate, grad_up, sums = ops.glu_backward(
            *(grad_out, gate, up, gate_bias, up_bias, parameter),
            *call[:4],
            _ops.needs_mask(*needs),
        )
        return (
            grad_gate if needs[0] else None,
            grad_up if needs[1] and up is not None else None,
            *vector_gradients(sums, gate_bias, up_bias, parameter, needs),
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.call, ctx.needs = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> Any:
        grad_out, *operands = ctx.saved_tensors
        return *double_backward(grad_grads, grad_out, operands, ctx.call), None, None


class _GluBackwardTransformable(_GluBackward):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _GluBackward.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[: OPERANDS + 1])

    @staticmethod
    def jvp(ctx: Any, grad_out_tangent: Tensor | None, *tangents: Tensor | None) -> Any:
        # The gradients are derivatives of sum(grad_out * out), whose second derivatives are
        # symmetric: by the operands, the forward derivative is the backward one.
        with dispatch.lift_primals(ctx.saved_tensors) as (grad_out, *operands):
            along = tangents[:OPERANDS]
            results: Gradients = (None,) * OPERANDS
            if any(tangent is not None for tangent in along):
                results = double_backward(along, grad_out, operands, ctx.call, False, True)[1:]
            if grad_out_tangent is not None:
                linear = glu_backward(grad_out_tangent, *operands, ctx.call, ctx.needs)
                results = tuple(_sum(a, b) for a, b in zip(results, linear, strict=True))
        return tuple(r if need else None for r, need in zip(results, ctx.needs, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        *_, needs = args
        # A sum over rows is one for each element of the batch, which the kernel does not keep apart
        if any(needs[2:]) or any(dim is not None for dim in in_dims[3 : OPERANDS + 1]):
            return dispatch.vmap_decomposition(decompositions.backward, info, in_dims, args)
        tensors = dispatch.batch_first(info, in_dims[:3], args[:3])
        grads = glu_backward(*tensors, *args[3:])
        return grads, tuple(None if grad is None else 0 for grad in grads)


def _promoted(*arguments: Any) -> Any:
    *operands, call = arguments
    if context.autocasts(operands[0]):
        operands = [*context.promoted_operands(*operands)]
    return *operands, call


_apply: Callable[..., Tensor] = dispatch.raw_apply(_Glu)
_transformed: Callable[..., Tensor] = dispatch.transformed(
    _Glu, _GluTransformable, decompositions.forward, _promoted
)


def gated(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    call: Call,
) -> Tensor:
    """What `dispatch.dispatcher` makes of _Glu, written out: it decides what a tiny call costs."""
    if _transforms_active() or forward_ad._current_level >= 0 or _is_compiling():
        return _transformed(gate, up, gate_bias, up_bias, parameter, call)
    if _is_grad_enabled() and (
        gate.requires_grad
        or (up is not None and up.requires_grad)
        or (call.has_options and require_grad(gate_bias, up_bias, parameter))
    ):
        return _apply(gate, up, gate_bias, up_bias, parameter, call)
    out: Tensor = _kernel(gate, up, gate_bias, up_bias, parameter, call)
    return out


glu_backward: Callable[..., Gradients] = dispatch.dispatcher(
    _GluBackward, _GluBackwardTransformable, decompositions.backward
)


def vector_gradients(
    sums: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    needs: tuple[bool, ...],
) -> Gradients:
    """Gradients of the biases and the parameter from the sums over rows, [1, sums, cols]."""
    if not any(needs[2:]):
        return None, None, None
    results: list[Tensor | None] = []
    totals, count = sums[0], 0
    # By operations that do not ask for the whole sums of a DTensor, as clone and unbind do.
    for vector, need in zip((gate_bias, up_bias, parameter), needs[2:], strict=True):
        if not need or vector is None:
            results.append(None)
            continue
        total = totals[count]
        count += 1
        if total.numel() == 0:
            results.append(torch.zeros_like(vector))
            continue
        if vector.dim() == 0 or vector.shape != total.shape:
            total = total[:1].reshape(vector.shape)
        # A copy, because the sums of one call lie in one tensor.
        results.append(total.to(vector.dtype, copy=True))
    return tuple(results)


def _backward_inplace(ctx: Any, grad_out: Tensor, needs: tuple[bool, ...]) -> Gradients:
    if getattr(ctx, "written", False):
        raise RuntimeError(
            "inplace_backward: the gradients were already written over gate and up, so this graph "
            "cannot be run backward again; leave inplace_backward off to do that"
        )
    if torch.is_grad_enabled():
        raise RuntimeError(
            "inplace_backward: expected a backward pass without create_graph, since the gradients "
            "take the place of what they would be differentiated by"
        )
    operands = (*ctx.saved_tensors, None, None, None)[:OPERANDS]
    gate, up, gate_bias, up_bias, parameter = operands
    mask = _ops.needs_mask(*needs)
    sums = _ops.glu_backward_inplace(grad_out, *operands, *ctx.call[:4], mask, False)
    ctx.written = True
    for tensor, need in ((gate, needs[0]), (up, needs[1])):
        if tensor is not None and need:
            torch.autograd.graph.increment_version(tensor)
    return (
        gate.detach() if needs[0] else None,
        up.detach() if up is not None and needs[1] else None,
        *vector_gradients(sums, gate_bias, up_bias, parameter, needs),
    )


def gated_out(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    call: Call,
    out: Tensor,
) -> Tensor:
    """Writes into out; autograd does not record it, so no argument may ask for a derivative."""
    if _is_grad_enabled() or forward_ad._current_level >= 0:
        _refuse_derivatives(gate, up, gate_bias, up_bias, parameter, out)
    if call.eager:
        result = decompositions.forward(gate, up, gate_bias, up_bias, parameter, call)
        _checks.check_matches("out", out, result.shape, result)
        out.copy_(result)
        return out
    compiling = _is_compiling()
    ops = _ops if compiling else _ops.direct
    ops.glu_forward_out(gate, up, gate_bias, up_bias, parameter, *call[:4], out)
    if not compiling:
        torch.autograd.graph.increment_version(out)
    return out


def _refuse_derivatives(*tensors: Tensor | None) -> None:
    wants = torch.is_grad_enabled() and require_grad(*tensors)
    if wants or (forward_ad._current_level >= 0 and any(map(dispatch.has_tangent, tensors))):
        raise RuntimeError(
            "out: expected no argument that requires grad or has a tangent, because out= is not "
            "differentiable; call it under torch.no_grad() or without out="
        )
