"""The backward pass of the gated units: its Function, which double backward and forward mode
differentiate, and its form in place.

Names are those of gated.py.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops
from fused_acts._autograd import decompositions, dispatch
from fused_acts._autograd.dispatch import Gradients
from fused_acts._autograd.gated_second import (
    OPERANDS,
    double_backward,
    in_float,
    is_narrow,
)
from fused_acts._call import Call


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


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
        ops = _ops.current()
        operands = gate, up, gate_bias, up_bias, parameter
        backward = (
            _ops.glu_backward_numbers if isinstance(call.scalar, Tensor) else ops.glu_backward
        )
        grads = backward(grad_out, *operands, *call[:4], _ops.needs_mask(*needs))
        grad_gate, grad_up, sums = grads
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
            dtypes = [None if operand is None else operand.dtype for operand in operands]
            moves = any(tangent is not None for tangent in along)
            if moves and grad_out_tangent is not None and is_narrow(grad_out):
                # The storage type would round both parts before it rounds their sum.
                grad_out, grad_out_tangent = in_float(grad_out, grad_out_tangent)
                operands, along = [*in_float(*operands)], tuple(in_float(*along))
            if moves:
                results = double_backward(along, grad_out, operands, ctx.call, False, True)[1:]
            if grad_out_tangent is not None:
                linear = glu_backward(grad_out_tangent, *operands, ctx.call, ctx.needs)
                results = tuple(_sum(a, b) for a, b in zip(results, linear, strict=True))
        return tuple(
            None if result is None or not need else result.to(dtype)
            for result, dtype, need in zip(results, dtypes, ctx.needs, strict=True)
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        *_, needs = args
        # A sum over rows is one for each element of the batch, which the kernel does not keep apart
        if any(needs[2:]) or any(dim is not None for dim in in_dims[3 : OPERANDS + 1]):
            return dispatch.vmap_decomposition(decompositions.backward, info, in_dims, args)
        tensors = dispatch.batch_first(info, in_dims[:3], args[:3])
        grads = glu_backward(*tensors, *args[3:])
        return grads, tuple(None if grad is None else 0 for grad in grads)


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


_claiming = threading.Lock()


def claim(ctx: Any) -> bool:
    """Whether nobody has claimed what this context saved, to write over it; then it is claimed.

    To be asked before the kernel runs, which lets other threads go on meanwhile.
    """
    with nullcontext() if torch.compiler.is_compiling() else _claiming:  # Dynamo knows no locks
        written, ctx.written = getattr(ctx, "written", False), True
    return not written


def backward_inplace(ctx: Any, grad_out: Tensor, needs: tuple[bool, ...]) -> Gradients:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "inplace_backward: expected a backward pass without create_graph, since the gradients "
            "take the place of what they would be differentiated by"
        )
    if not claim(ctx):
        raise RuntimeError(
            "inplace_backward: the gradients were already written over gate and up, so this graph "
            "cannot be run backward again; leave inplace_backward off to do that"
        )
    try:
        operands = (*ctx.saved_tensors, None, None, None)[:OPERANDS]
        gate, up, gate_bias, up_bias, parameter = operands
        mask = _ops.needs_mask(*needs)
        sums = _ops.current().glu_backward_inplace(
            grad_out.resolve_neg(), *operands, *ctx.call[:4], mask, False
        )
    except ValueError:
        ctx.written = False  # refused, before anything was written
        raise
    for tensor, need in ((gate, needs[0]), (up, needs[1])):
        if tensor is not None and need:
            torch.autograd.graph.increment_version(tensor)
    return (
        gate.detach() if needs[0] else None,
        up.detach() if up is not None and needs[1] else None,
        *vector_gradients(sums, gate_bias, up_bias, parameter, needs),
    )
