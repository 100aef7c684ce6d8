"""Second derivatives of the gated units, in one kernel: what double backward and jvp are made of.

Names are those of gated.py.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops
from fused_acts._autograd import decompositions, dispatch
from fused_acts._autograd.dispatch import Gradients
from fused_acts._call import Call, is_unary
from fused_acts._layouts import pack, unpack

OPERANDS = 7


class _GluDoubleBackward(torch.autograd.Function):
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
        out, grad_gate, grad_up = _ops.current().glu_double_backward(
            *(grad_out, gate, up, gate_tangent, up_tangent, gate_bias, up_bias, parameter),
            *call[:6],
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
            return decompositions.along_inputs(*inputs, *ctx.options)

        return *decompositions.vjp(function, ctx.saved_tensors, grads), None, None, None


class _GluDoubleBackwardTransformable(_GluDoubleBackward):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _GluDoubleBackward.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:-3])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        with dispatch.lift_primals(ctx.saved_tensors) as inputs:
            _, needs_out, needs_inputs = ctx.options
            wanted = (needs_out, needs_inputs, needs_inputs and inputs[2] is not None)

            def function(*tensors: Tensor | None) -> Any:
                results = decompositions.along_inputs(*tensors, *ctx.options)
                return [torch.zeros_like(inputs[1]) if r is None else r for r in results]

            return decompositions.jvp(function, inputs, tangents[: len(inputs)], wanted)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        if any(dim is not None for dim in in_dims[5:8]):
            return dispatch.vmap_decomposition(decompositions.along_inputs, info, in_dims, args)
        tensors = dispatch.batch_first(info, in_dims[:5], args[:5])
        results = glu_double_backward(*tensors, *args[5:])
        return results, tuple(None if result is None else 0 for result in results)


glu_double_backward: Callable[..., Gradients] = dispatch.dispatcher(
    _GluDoubleBackward, _GluDoubleBackwardTransformable, decompositions.along_inputs
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

    In one kernel, unless there are tensors beside biases: derivatives by those are decomposed.
    """
    gate, up, gate_bias, up_bias, *others = operands
    if all(grad_grad is None for grad_grad in grad_grads):
        return (None,) * (OPERANDS + 1)
    if any(other is not None for other in others):
        if grad_out is None:  # the first result does not depend on it
            grad_out = decompositions.unit_like(gate, up, call)
        return decompositions.double_backward(grad_grads, grad_out, operands, call)

    gate_tangent, up_tangent, gate_vector, up_vector, *_ = grad_grads
    storage = gate.dtype
    dtypes = [None if bias is None else bias.dtype for bias in (gate_bias, up_bias)]
    beside_up = gate_tangent if up is None else up_tangent
    if _rounds_twice(gate, gate_tangent, gate_vector) or _rounds_twice(gate, beside_up, up_vector):
        # The storage type would round the sums of tangents before the kernel rounds their results.
        grad_out, gate, up, gate_tangent, up_tangent, gate_bias, up_bias = in_float(
            grad_out, gate, up, gate_tangent, up_tangent, gate_bias, up_bias
        )

    # What moves with a bias is that of every row.
    if is_unary(call.variant):
        gate_tangent = _add_vector(gate, gate_tangent, gate_vector)
    elif up is None:
        if gate_vector is not None or up_vector is not None:
            zero = torch.zeros_like(up_vector if gate_vector is None else gate_vector)
            gate_vector, up_vector = (
                (zero if vector is None else vector).to(gate.dtype)
                for vector in (gate_vector, up_vector)
            )
            packed = pack(gate_vector, up_vector, call.layout)
            gate_tangent = _add_vector(gate, gate_tangent, packed)
    else:
        gate_tangent = _add_vector(gate, gate_tangent, gate_vector)
        up_tangent = _add_vector(up, up_tangent, up_vector)
    out, grad_gate, grad_up = glu_double_backward(
        *(grad_out, gate, up, gate_tangent, up_tangent, gate_bias, up_bias, None),
        *(call, needs_out, needs_inputs),
    )
    of_biases: list[Tensor | None] = [None, None]
    if needs_inputs and (gate_bias is not None or up_bias is not None):
        grads: Any = grad_gate, grad_up
        if up is None and not is_unary(call.variant):
            grads = unpack(grads[0], call.layout)
        for index, (bias, grad) in enumerate(zip((gate_bias, up_bias), grads, strict=True)):
            if bias is not None:
                rows = tuple(range(grad.dim()))
                of_biases[index] = grad.unsqueeze(0).sum(rows, dtype=dtypes[index])
    results = (out, grad_gate, grad_up)
    stored = (None if result is None else result.to(storage) for result in results)
    return *stored, *of_biases, None, None, None


def in_float(*tensors: Tensor | None) -> Any:
    return (None if tensor is None else tensor.float() for tensor in tensors)


def is_narrow(tensor: Tensor) -> bool:
    """Whether the arithmetic is in a wider type."""
    return tensor.dtype in (torch.float16, torch.bfloat16)


def _rounds_twice(like: Tensor, tangent: Tensor | None, vector: Tensor | None) -> bool:
    """Whether a tangent and a bias's would be rounded when they are added in the storage type."""
    if vector is None or not is_narrow(like):
        return False
    return tangent is not None or vector.dtype != like.dtype


def _add_vector(like: Tensor, tangent: Tensor | None, vector: Tensor | None) -> Tensor | None:
    if vector is None:
        return tangent
    vector = vector.to(like.dtype)
    return vector.expand_as(like) if tangent is None else tangent + vector
