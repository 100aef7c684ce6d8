"""The backward pass of the gated units: its Function, which double backward and forward mode
differentiate, and its form in place.

Names are those of gated.py.
"""

import threading
from collections.abc import Callable, Sequence
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


def has_rows(row_weight: Tensor | None, call: Call) -> bool:
    """Whether rows have anything of their own; what is not there takes as long to pass, or save."""
    return row_weight is not None or call.rows != 0


def saved_operands(ctx: Any) -> Any:
    saved = ctx.saved_tensors
    return *saved, *(None,) * (OPERANDS - len(saved))


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
        row_weight: Tensor | None,
        experts: Tensor | None,
        call: Call,
        needs: tuple[bool, ...],
    ) -> Gradients:
        ops, mask = _ops.current(), _ops.needs_mask(*needs)
        vectors: Gradients = (None,) * 4
        if not call.has_options:
            by_gate, by_up = ops.glu_backward(grad_out, gate, up, call.variant, call.layout, mask)
        else:
            operands = gate, up, gate_bias, up_bias, parameter
            backward = ops.glu_backward_options
            if isinstance(call.scalar, Tensor):
                backward = _ops.glu_backward_numbers
            of_rows = (row_weight, experts, call.rows) if has_rows(row_weight, call) else ()
            by_gate, by_up, *computed = backward(grad_out, *operands, *call[:6], mask, *of_rows)
            vectors = only_needed(computed, (*operands[2:], row_weight), needs[2:-1])
        return (
            by_gate if needs[0] else None,
            by_up if needs[1] and up is not None else None,
            *vectors,
            None,
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
        *_, call, needs = args
        # A sum over rows is one for each element of the batch, which the kernel does not keep apart
        decomposes = any(needs[2:]) or any(dim is not None for dim in in_dims[3 : OPERANDS + 1])
        if decomposes or has_rows(args[OPERANDS - 1], call):
            return dispatch.vmap_decomposition(decompositions.backward, info, in_dims, args)
        tensors = dispatch.batch_first(info, in_dims[:3], args[:3])
        grads = glu_backward(*tensors, *args[3:])
        return grads, tuple(None if grad is None else 0 for grad in grads)


glu_backward: Callable[..., Gradients] = dispatch.dispatcher(
    _GluBackward, _GluBackwardTransformable, decompositions.backward
)


def only_needed(
    computed: Sequence[Tensor], vectors: Sequence[Tensor | None], needs: tuple[bool, ...]
) -> Gradients:
    """The gradients of vectors, without what stands for those there are not."""
    return tuple(
        grad if need and vector is not None else None
        for grad, vector, need in zip(computed, vectors, needs, strict=True)
    )


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
        *operands, row_weight, experts = saved_operands(ctx)
        gate, up = operands[:2]
        mask = _ops.needs_mask(*needs)
        vectors = _ops.current().glu_backward_inplace(
            *(grad_out.resolve_neg(), *operands, *ctx.call[:6], mask, False),
            *(row_weight, experts, ctx.call.rows),
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
        *only_needed(vectors, (*operands[2:], row_weight), needs[2:-1]),
        None,
    )
