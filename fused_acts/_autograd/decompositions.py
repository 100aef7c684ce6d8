"""The gated units and their derivatives composed of plain torch operations, from the reference.

What autograd and the functorch transforms make of the reference, they can differentiate to any
order and torch.compile can trace. `operands` stands for (gate, up, gate_bias, up_bias, parameter);
up is None when gate is packed, and so are the others where a call does not have them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fused_acts import reference
from fused_acts.options import ALONE, LAYOUTS, Call, halves
from fused_acts.tables import ROWS

Tensors = Sequence[Tensor | None]


def forward(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    call: Call,
) -> Tensor:
    if up is None and call.layout != ALONE:
        gate, up = halves(gate, LAYOUTS[call.layout])
    value = call.scalar if parameter is None else parameter
    compute: Any = reference.eager_unit if call.eager else reference.unit
    row = ROWS[call.variant]
    result: Tensor = compute(row, gate, up, gate_bias, up_bias, value, call.limit)
    return result


def unit_like(gate: Tensor, up: Tensor | None, call: Call) -> Tensor:
    """A tensor of the shape of the output."""
    if up is not None or call.layout == ALONE:
        return gate
    return halves(gate, LAYOUTS[call.layout])[0]


def vjp(function: Callable[..., Any], inputs: Tensors, cotangents: Tensors) -> list[Tensor | None]:
    """Gradients of a function's outputs times cotangents by its inputs, None by absent inputs.

    A cotangent that is None stands for 0.
    """
    present = [index for index, value in enumerate(inputs) if value is not None]
    seeds = tuple(c for c in cotangents if c is not None)
    grads: list[Tensor | None] = [None] * len(inputs)
    if not seeds:
        return grads

    def of_present(*tensors: Tensor) -> tuple[Tensor, ...]:
        every: list[Tensor | None] = [None] * len(inputs)
        for index, tensor in zip(present, tensors, strict=True):
            every[index] = tensor
        outputs = function(*every)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(out for out, seed in zip(outputs, cotangents, strict=True) if seed is not None)

    tensors = [tensor for tensor in inputs if tensor is not None]
    for index, grad in zip(present, torch.func.vjp(of_present, *tensors)[1](seeds), strict=True):
        grads[index] = grad
    return grads


def backward(grad_out: Tensor, *operands: Any) -> tuple[Tensor | None, ...]:
    """Gradients by the operands; after these come the call and which gradients are needed."""
    *tensors, call, needs = operands
    grads = vjp(partial(forward, call=call), tensors, (grad_out,))
    return tuple(grad if need else None for grad, need in zip(grads, needs, strict=True))


def double_backward(
    grad_grads: Tensors, grad_out: Tensor, operands: Tensors, call: Call
) -> tuple[Tensor | None, ...]:
    """Gradients by (grad_out, *operands) of the gradients by the operands times grad_grads."""
    needs = [grad_grad is not None for grad_grad in grad_grads]
    return tuple(
        vjp(lambda *inputs: backward(*inputs, call, needs), (grad_out, *operands), grad_grads)
    )


def second(*inputs: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What torch.ops.fused_acts.glu_second computes, from the same arguments up to the call."""
    grad_out, gate, up, gate_tangent, up_tangent, *rows, call, _, _ = inputs
    if grad_out is None:  # the first result does not depend on it
        grad_out = unit_like(gate, up, call)

    def gradients(grad_out: Tensor, gate: Tensor, up: Tensor | None) -> Any:
        return backward(grad_out, gate, up, *rows, call, (True, True, False, False, False))[:2]

    results = vjp(gradients, (grad_out, gate, up), (gate_tangent, up_tangent))
    return results[0], results[1], results[2]
