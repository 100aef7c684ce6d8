"""Second derivatives of the gated units, in one kernel: what double backward and jvp are made of.

Names are those of autograd.py.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops, composed, dispatch
from fused_acts.dispatch import Gradients
from fused_acts.options import ALONE, LAYOUTS, Call, halves, pack

OPERANDS = 5


class _GluSecond(torch.autograd.Function):
    @staticmethod
    def forward(
        grad_out: Tensor | None,
        gate: Tensor,
        up: Tensor | None,
        gate_tangent: Tensor | None,
        up_tangent: Tensor | None,
        gate_bias: Tensor | None,
        up_bias: Tensor | None,
        parameter: Tensor | None,
        call: Call,
        needs_out: bool,
        needs_inputs: bool,
    ) -> Gradients:
        out, grad_gate, grad_up = _ops.glu_double_backward(
            *(grad_out, gate, up, gate_tangent, up_tangent, gate_bias, up_bias, parameter),
            *_ops.numbers(call),
            needs_out,
            needs_inputs,
        )
        return (
            out if needs_out else None,
            grad_gate if needs_inputs else None,
            grad_up if needs_inputs and up is not None else None,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, call, needs_out, needs_inputs = inputs
        ctx.options = call, needs_out, needs_inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        def function(*inputs: Tensor | None) -> Any:
            return composed.second(*inputs, *ctx.options)

        return *composed.vjp(function, ctx.saved_tensors, grads), None, None, None


class _GluSecondTransformable(_GluSecond):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _GluSecond.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:-3])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        with dispatch.next_level(ctx.saved_tensors) as inputs:
            moving = [i for i, tangent in enumerate(tangents[: len(inputs)]) if tangent is not None]
            _, needs_out, needs_inputs = ctx.options
            wanted = (needs_out, needs_inputs, needs_inputs and inputs[2] is not None)

            def function(*values: Tensor) -> tuple[Tensor, ...]:
                every = list(inputs)
                for index, value in zip(moving, values, strict=True):
                    every[index] = value
                results = composed.second(*every, *ctx.options)
                return tuple(
                    torch.zeros_like(inputs[1]) if result is None else result
                    for result, want in zip(results, wanted, strict=True)
                    if want
                )

            primals = tuple(inputs[i] for i in moving)
            along = torch.func.jvp(function, primals, tuple(tangents[i] for i in moving))
            results = iter(along[1])
            return tuple(next(results) if want else None for want in wanted)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        if any(dim is not None for dim in in_dims[5:8]):
            return dispatch.vmap_plain(composed.second, info, in_dims, args)
        tensors = dispatch.batch_first(info, in_dims[:5], args[:5])
        results = glu_second(*tensors, *args[5:])
        return results, tuple(None if result is None else 0 for result in results)


glu_second: Callable[..., Gradients] = dispatch.dispatcher(
    _GluSecond, _GluSecondTransformable, composed.second, dispatch.require_grad
)


def double_backward(
    grad_grads: Any,
    grad_out: Tensor | None,
    operands: Any,
    call: Call,
    needs_out: bool = True,
    needs_inputs: bool = True,
) -> Gradients:
    """Gradients by (grad_out, *operands) of the gradients by the operands times grad_grads.

    In one kernel, unless the parameter is a tensor: derivatives by it are composed.
    """
    gate, up, gate_bias, up_bias, parameter = operands
    if all(grad_grad is None for grad_grad in grad_grads):
        return (None,) * (OPERANDS + 1)
    if parameter is not None:
        if grad_out is None:  # the first result does not depend on it
            grad_out = composed.unit_like(gate, up, call)
        return composed.double_backward(grad_grads, grad_out, operands, call)

    # What moves with a bias is that of every row.
    gate_tangent, up_tangent, gate_row, up_row, _ = grad_grads
    if call.layout == ALONE:
        gate_tangent = _add_row(gate, gate_tangent, gate_row)
    elif up is None:
        if gate_row is not None or up_row is not None:
            zero = torch.zeros_like(up_row if gate_row is None else gate_row)
            gate_row, up_row = (zero if row is None else row for row in (gate_row, up_row))
            packed = pack(gate_row, up_row, LAYOUTS[call.layout])
            gate_tangent = _add_row(gate, gate_tangent, packed)
    else:
        gate_tangent = _add_row(gate, gate_tangent, gate_row)
        up_tangent = _add_row(up, up_tangent, up_row)
    out, grad_gate, grad_up = glu_second(
        *(grad_out, gate, up, gate_tangent, up_tangent, gate_bias, up_bias, None),
        *(call, needs_out, needs_inputs),
    )
    of_rows: list[Tensor | None] = [None, None]
    if needs_inputs and (gate_bias is not None or up_bias is not None):
        grads: Any = grad_gate, grad_up
        if up is None and call.layout != ALONE:
            grads = halves(grads[0], LAYOUTS[call.layout])
        for index, (bias, grad) in enumerate(zip((gate_bias, up_bias), grads, strict=True)):
            if bias is not None:
                rows = tuple(range(grad.dim()))
                of_rows[index] = grad.unsqueeze(0).sum(rows, dtype=bias.dtype)
    return out, grad_gate, grad_up, *of_rows, None


def _add_row(like: Tensor, tangent: Tensor | None, row: Tensor | None) -> Tensor | None:
    if row is None:
        return tangent
    row = row.to(like.dtype)
    return row.expand_as(like) if tangent is None else tangent + row
