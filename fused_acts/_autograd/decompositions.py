"""The gated units and their derivatives decomposed into torch operations.

Autograd and the functorch transforms differentiate them to any order and torch.compile can trace
them. `operands` stands for (gate, up, gate_bias, up_bias, parameter, row_weight, experts); up is
None when gate is packed or there is none, and so are the others where a call does not have them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fused_acts._call import ROW_KINDS, ZERO_PADDING, Call, is_unary
from fused_acts._checks import check_call
from fused_acts._layouts import unpack
from fused_acts.tables import ROWS, Activation, of_gate, of_up

Tensors = Sequence[Tensor | None]


def experts_of_rows(
    like: Tensor, experts: Tensor, rows: int, count: int | None = None
) -> tuple[Tensor, Tensor]:
    """The expert of each row of `like`, and whether it has one, of `count`: else it is padding."""
    shape, kind = like.shape[:-1], rows % ZERO_PADDING
    if kind == ROW_KINDS["row_expert"]:
        if count is None:
            return experts.long(), experts >= 0
        return experts.long().clamp(0, count - 1), (experts >= 0) & (experts < count)
    if kind == ROW_KINDS["counts"]:
        owner = torch.arange(shape[0], device=like.device).unsqueeze(-1).expand(shape)
        return owner, torch.arange(shape[1], device=like.device) < experts.unsqueeze(-1)
    index = torch.arange(shape.numel(), dtype=experts.dtype, device=like.device)
    owner = torch.searchsorted(experts, index, right=True).view(shape)
    return owner.clamp(max=len(experts) - 1), owner < len(experts)


def _count(call: Call, vectors: Tensors) -> int | None:
    """How many experts have values of their own."""
    gate_bias, up_bias, parameter = vectors[:3]
    for bias in (gate_bias, up_bias):
        if bias is not None and bias.dim() == 2:
            return bias.shape[0]
    pair = len(ROWS[call.variant].parameters) == 2
    if parameter is not None and parameter.dim() == 2 + pair:
        return parameter.shape[-2]
    return None


def _added(x: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    x = x.to(dtype)
    return x if bias is None else x + bias.to(dtype)


SYMBOLS = torch.SymFloat, torch.SymInt


def number_tensor(value: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """A number of a program that is compiled as a tensor on the CPU, by arithmetic.

    As an argument of an operator that is not one of torch's own a symbol is compiled anew for each
    value or, computed from another one, keeps an old value; and so it does in torch.full.
    """
    tensor: Tensor = torch.ones((), dtype=dtype, device="cpu") * value
    return tensor


def _number(value: Any, dtype: torch.dtype) -> Any:
    """A number of a call for torch's operations, which take one on the CPU on any device."""
    if isinstance(value, SYMBOLS):
        return number_tensor(value, dtype)
    return value.to(dtype) if isinstance(value, Tensor) else value


def forward(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    row_weight: Tensor | None,
    experts: Tensor | None,
    call: Call,
) -> Tensor:
    """f(min(gate + gate_bias, limit)) * g(clamp(up + up_bias, -limit, limit)) * weight.

    Rounded once, or where the call is eager as torch's own functions do it, one after the other.
    Padding is 0.
    """
    vectors = gate_bias, up_bias, parameter, row_weight, experts
    check_call(gate, up, *vectors, call.variant, call.layout, call.rows)
    if up is None and not is_unary(call.variant):
        gate, up = unpack(gate, call.layout)
    owner = live = None
    if experts is not None:
        owner, live = experts_of_rows(gate, experts, call.rows, _count(call, vectors))
        live = live.unsqueeze(-1)
        gate = torch.where(live, gate, 0.0)
        up = None if up is None else torch.where(live, up, 0.0)
        if row_weight is not None:
            row_weight = torch.where(live.squeeze(-1), row_weight, 0.0)

    def of_rows(vector: Any) -> Any:
        """What each row has of a vector for each expert."""
        return vector[owner] if owner is not None and vector.dim() == 2 else vector

    gate_bias, up_bias = (None if v is None else of_rows(v) for v in (gate_bias, up_bias))
    row, storage = ROWS[call.variant], gate.dtype
    real = storage if call.eager else torch.promote_types(storage, torch.float32)
    f = (row.eager or row.f) if call.eager else row.f
    limit = _number(call.limit, real)

    def at_most_limit(x: Tensor) -> Tensor:
        # Not clamp, whose gradient is 0 at NaN, and at the limit itself in some versions of torch.
        return x.clamp(max=limit) if call.eager else torch.where(x > limit, limit, x)

    values: Any = [_number(call.scalar, real), _number(call.second, real)]
    if parameter is not None:
        parameter = parameter.to(real)
        values = parameter.unbind() if len(row.parameters) == 2 else [parameter]
        values = [of_rows(value) for value in values]
    values = values[: len(row.parameters)]
    limits_value = not isinstance(row, Activation) and row.limits_value
    gate = _added(gate, gate_bias, real)
    if limit is not None and not limits_value:
        gate = at_most_limit(gate)
    result = f(gate, *of_gate(row, values))
    if limit is not None and limits_value and call.eager:
        result = at_most_limit(result)
    elif limit is not None and limits_value:
        # f is not differentiated where it is cut off: its own gradient may be NaN there.
        beyond = result.detach() > limit
        result = torch.where(beyond, limit, f(torch.where(beyond, 0.0, gate)))
    if up is not None:
        assert not isinstance(row, Activation)
        up = _added(up, up_bias, real)
        if limit is not None:
            cut = up.detach().sign() * limit
            up = up.clamp(-limit, limit) if call.eager else torch.where(up.abs() > limit, cut, up)
        result = result * row.g(up, *of_up(row, values))
    weight = _number(call.weight, real)
    if isinstance(weight, Tensor) or weight != 1.0:
        result = result * weight
    if row_weight is not None:
        result = result * (row_weight if call.eager else row_weight.to(real)).unsqueeze(-1)
    result = result.to(storage)
    return result if live is None else torch.where(live, result, 0.0)


def unit_like(gate: Tensor, up: Tensor | None, call: Call) -> Tensor:
    """A tensor of the shape of the output."""
    if up is not None or is_unary(call.variant):
        return gate
    return unpack(gate, call.layout)[0]


def is_real(tensor: Tensor) -> bool:
    """Whether there are derivatives by it."""
    return tensor.is_floating_point()


def vjp(function: Callable[..., Any], inputs: Tensors, cotangents: Tensors) -> list[Tensor | None]:
    """Gradients of a function's outputs times cotangents by its inputs, None by absent inputs.

    A cotangent that is None stands for 0.
    """
    present = [i for i, value in enumerate(inputs) if value is not None and is_real(value)]
    seeds = tuple(c for c in cotangents if c is not None)
    grads: list[Tensor | None] = [None] * len(inputs)
    if not seeds:
        return grads

    def of_present(*tensors: Tensor) -> tuple[Tensor, ...]:
        every = list(inputs)
        for index, tensor in zip(present, tensors, strict=True):
            every[index] = tensor
        outputs = function(*every)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(out for out, seed in zip(outputs, cotangents, strict=True) if seed is not None)

    tensors = [inputs[index] for index in present]
    for index, grad in zip(present, torch.func.vjp(of_present, *tensors)[1](seeds), strict=True):
        grads[index] = grad
    return grads


def jvp(
    function: Callable[..., Any], inputs: Tensors, tangents: Tensors, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Tangents of those outputs of a function that are wanted; a tangent that is None is 0."""
    moving = [i for i, tangent in enumerate(tangents) if tangent is not None]

    def of_moving(*values: Tensor) -> tuple[Tensor, ...]:
        every = list(inputs)
        for index, value in zip(moving, values, strict=True):
            every[index] = value
        return tuple(out for out, want in zip(function(*every), wanted, strict=True) if want)

    primals = tuple(inputs[i] for i in moving)
    along = torch.func.jvp(of_moving, primals, tuple(tangents[i] for i in moving))[1]
    results = iter(along)
    return tuple(next(results) if want else None for want in wanted)


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


def along_inputs(*inputs: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What glu_double_backward computes, from the same arguments up to the call."""
    grad_out, gate, up, gate_tangent, up_tangent, *vectors, call, _, _ = inputs
    if grad_out is None:  # the first result does not depend on it
        grad_out = unit_like(gate, up, call)

    def gradients(grad_out: Tensor, gate: Tensor, up: Tensor | None) -> Any:
        operands = gate, up, *vectors, None, None
        return backward(grad_out, *operands, call, (True, True, *[False] * 5))[:2]

    results = vjp(gradients, (grad_out, gate, up), (gate_tangent, up_tangent))
    return results[0], results[1], results[2]
