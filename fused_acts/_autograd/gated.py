"""Differentiation of the gated units: autograd Functions over torch.ops.fused_acts.*.

`operands` stands for (gate, up, gate_bias, up_bias, parameter, row_weight, experts). In all of
them up is None when gate is a packed x: [..., 2 * cols] or the x of an activation, and so is the
gradient of up.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fused_acts import _checks, _ops
from fused_acts._autograd import context, decompositions, dispatch
from fused_acts._autograd.dispatch import Gradients, require_grad
from fused_acts._autograd.gated_backward import (
    backward_inplace,
    glu_backward,
    has_rows,
    saved_operands,
)
from fused_acts._autograd.gated_second import OPERANDS, double_backward
from fused_acts._call import NUMBERS, ZERO_PADDING, Call
from fused_acts._nested import on_values
from fused_acts.tables import ROWS

# Found once: a call on tiny tensors takes as long as a few dozen look-ups.
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled
_is_inference_mode = torch.is_inference_mode_enabled
_increment_version = torch.autograd.graph.increment_version
_transforms_active = torch._C._are_functorch_transforms_active
_is_dynamo = torch.compiler.is_dynamo_compiling
_mode_count = torch._C._len_torch_dispatch_stack
_is_tracing = torch._C._is_tracing

_ROW_WEIGHT = 5  # of operands


def _kernel(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    row_weight: Tensor | None,
    experts: Tensor | None,
    call: Call,
    ops: Any = _ops.direct,
) -> Any:
    if not call.has_options:
        return ops.glu_forward(gate, up, call.variant, call.layout)
    operands = gate, up, gate_bias, up_bias, parameter
    if call.eager:
        return decompositions.forward(*operands, row_weight, experts, call)
    forward = ops.glu_forward_options
    if type(call.scalar) is not float:
        forward = _ops.glu_forward_numbers
    if not has_rows(row_weight, call):
        return forward(*operands, *call[:6])
    return forward(*operands, *call[:6], row_weight, experts, call.rows)


def _save(ctx: Any, inputs: Any) -> None:
    call = ctx.call = inputs[-1]
    count = _ROW_WEIGHT if call.has_options else 2
    if has_rows(inputs[_ROW_WEIGHT], call):
        count = OPERANDS
    ctx.save_for_backward(*inputs[:count])


def _backward(ctx: Any, grad_out: Tensor | None, needs: tuple[bool, ...]) -> Gradients:
    """Gradients by the operands."""
    if grad_out is None:
        return (None,) * OPERANDS
    if ctx.call.inplace and not _is_compiling():
        return backward_inplace(ctx, grad_out, needs)
    return glu_backward(grad_out, *saved_operands(ctx), ctx.call, needs)


class _Glu(torch.autograd.Function):
    # With ctx, which takes a tenth less time than a setup_context.
    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor | None,
        gate_bias: Tensor | None,
        up_bias: Tensor | None,
        parameter: Tensor | None,
        row_weight: Tensor | None,
        experts: Tensor | None,
        call: Call,
    ) -> Any:
        operands = gate, up, gate_bias, up_bias, parameter, row_weight, experts
        _save(ctx, (*operands, call))
        return _kernel(*operands, call, _ops.current())

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None) -> Any:
        return *_backward(ctx, grad_out, ctx.needs_input_grad[:OPERANDS]), None


class _GluTransformable(_Glu):
    @staticmethod
    def forward(  # type: ignore[override]
        gate: Tensor,
        up: Tensor | None,
        gate_bias: Tensor | None,
        up_bias: Tensor | None,
        parameter: Tensor | None,
        row_weight: Tensor | None,
        experts: Tensor | None,
        call: Call,
    ) -> Any:
        operands = gate, up, gate_bias, up_bias, parameter, row_weight, experts
        return _kernel(*operands, call, _ops.current())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _save(ctx, inputs)
        ctx.save_for_forward(*inputs[:OPERANDS])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        # The backward pass is linear in grad_out, so its transpose is the forward derivative.
        with dispatch.lift_primals(ctx.saved_tensors) as operands:
            return double_backward(tangents[:OPERANDS], None, operands, ctx.call, True, False)[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        if any(dim is not None for dim in in_dims[2:OPERANDS]) or has_rows(
            args[_ROW_WEIGHT], args[-1]
        ):
            outputs, dims = dispatch.vmap_decomposition(
                lambda *inputs: (decompositions.forward(*inputs),), info, in_dims, args
            )
            return outputs[0], dims[0]
        gate, up = dispatch.batch_first(info, in_dims[:2], args[:2])
        return gated(gate, up, *args[2:]), 0  # type: ignore[arg-type]


def as_prepared(*arguments: Any) -> Any:
    """As autocast wants the operands, symbolic numbers as tensors, nothing in place."""
    *operands, call = arguments
    if context.autocasts(operands[0]):
        operands = [*context.promoted_operands(*operands)]
    if any(isinstance(number, decompositions.SYMBOLS) for number in call[:NUMBERS]):
        numbers = (None if n is None else decompositions.number_tensor(n) for n in call[:NUMBERS])
        call = call._make((*numbers, *call[NUMBERS:]))._replace(has_options=True)
    return *operands, call._replace(inplace=False)


def _records_kernel(*arguments: Any) -> bool:
    """Whether a recorded program can have the kernel in it, which takes numbers."""
    call = arguments[-1]
    return not (call.eager or isinstance(call.scalar, Tensor))


def _recorded(*arguments: Any) -> Any:
    *operands, row_weight, experts, call = arguments
    gate, parameter = operands[0], operands[-1]
    scalar, second, limit, weight, *indices = call[:6]
    # AOTInductor writes numbers to JSON, which has neither infinity nor NaN.
    if parameter is None and not math.isfinite(scalar + second):
        count = len(ROWS[call.variant].parameters)
        real = torch.promote_types(gate.dtype, torch.float32)
        values = torch.tensor([[scalar], [second]][:count], dtype=real, device=gate.device)
        operands[-1] = values if count == 2 else values.view(())
        scalar = second = 1.0
    limit = None if limit == math.inf else limit
    numbers = scalar, second, limit, weight
    return _ops.gated(*operands, *numbers, *indices, row_weight, experts, call.rows)


def _of_recorded(*inputs: Any) -> Any:
    """The arguments of a call, of those of its operator in a recorded program."""
    *operands, scalar, second, limit, weight, variant, layout = inputs[:_BEFORE_ROWS]
    of_rows: Any = inputs[_BEFORE_ROWS:]
    row_weight, experts, rows = of_rows + (None, None, 0)[len(of_rows) :]
    limit = math.inf if limit is None else limit
    numbers = scalar, second, limit, weight
    flags = {"has_options": True, "eager": False, "inplace": False, "save": False}
    call = Call(*numbers, variant, layout, rows, **flags)
    return *operands, row_weight, experts, call


_BEFORE_ROWS = 11  # arguments of the operator


def _setup_recorded(ctx: Any, inputs: Any, output: Any) -> None:
    _save(ctx, _of_recorded(*inputs))


def _backward_recorded(ctx: Any, grad_out: Tensor) -> Any:
    needs = ctx.needs_input_grad
    by_row_weight = any(needs[_BEFORE_ROWS : _BEFORE_ROWS + 1])
    needs = *needs[:_ROW_WEIGHT], by_row_weight, False
    *by, row_weight, _experts = _backward(ctx, grad_out, needs)
    return *by, *(None,) * 6, row_weight, None, None


def _decomposed_recorded(*inputs: Any) -> Tensor:
    return decompositions.forward(*_of_recorded(*inputs))


def _has_no_rows(*inputs: Any) -> bool:
    operands = _of_recorded(*inputs)
    return not has_rows(operands[_ROW_WEIGHT], operands[-1])


dispatch.register_recorded(
    _ops.gated,
    _backward_recorded,
    _setup_recorded,
    _decomposed_recorded,
    of_rows=2,
    is_one_call=_has_no_rows,
)

_apply: Callable[..., Tensor] = dispatch.raw_apply(_Glu)
_looked_at: Callable[..., Tensor] = dispatch.entry(
    _Glu, _GluTransformable, decompositions.forward, _recorded, as_prepared, _records_kernel
)


def _special(gate: Tensor, up: Tensor | None, *rest: Any) -> Tensor:
    if not gate.is_nested:
        return _looked_at(gate, up, *rest)
    return on_values(lambda gate, up=None: gated(gate, up, *rest), gate=gate, up=up)


def gated(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    row_weight: Tensor | None,
    experts: Tensor | None,
    call: Call,
) -> Tensor:
    """What `dispatch.dispatcher` makes of _Glu, written out: it decides what a tiny call costs."""
    if (
        _transforms_active()
        or forward_ad._current_level >= 0
        or _is_dynamo()
        or _mode_count()
        or _is_tracing()
    ):
        return _special(gate, up, gate_bias, up_bias, parameter, row_weight, experts, call)
    if _is_grad_enabled() and (
        gate.requires_grad
        or (up is not None and up.requires_grad)
        or (call.has_options and require_grad(gate_bias, up_bias, parameter, row_weight))
    ):
        return _apply(gate, up, gate_bias, up_bias, parameter, row_weight, experts, call)
    out: Tensor = _kernel(gate, up, gate_bias, up_bias, parameter, row_weight, experts, call)
    return out


def gated_out(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    row_weight: Tensor | None,
    experts: Tensor | None,
    call: Call,
    out: Tensor,
) -> Tensor:
    """Writes into out; autograd does not record it, so no argument may ask for a derivative."""
    if _is_grad_enabled() or forward_ad._current_level >= 0:
        _refuse_derivatives(gate, up, gate_bias, up_bias, parameter, row_weight, out)
    if _is_dynamo():
        _write_traced(gate, up, gate_bias, up_bias, parameter, row_weight, experts, call, out)
        return out
    compiling = _is_compiling()
    if not compiling and out.is_inference() and not _is_inference_mode():
        raise RuntimeError(
            "out: expected no inference tensor outside of inference mode, where its changes cannot "
            "be tracked; clone it to get one that can be written"
        )
    # torch's fallback for the negative bit takes no operator that returns nothing; 2.10 aborts
    if call.eager or out.is_neg():
        compute = decompositions.forward if call.eager else gated
        result = compute(gate, up, gate_bias, up_bias, parameter, row_weight, experts, call)
        _write_rows(out, result, experts, call)
        return out
    ops = _ops.current()
    if call.has_options:
        options = gate_bias, up_bias, parameter, *call[:NUMBERS], row_weight, experts, call.rows
        ops.glu_forward_out(gate, up, call.variant, call.layout, out, *options)
    else:
        ops.glu_forward_out(gate, up, call.variant, call.layout, out)
    if not compiling:
        _increment_version(out)
    return out


def _write_rows(out: Tensor, result: Tensor, experts: Tensor | None, call: Call) -> None:
    """Copies a result, but for the rows of padding that are to stay as they are."""
    _checks.check_matches("out", out, result.shape, result)
    if experts is not None and call.rows < ZERO_PADDING:
        _, live = decompositions.experts_of_rows(result, experts, call.rows)
        result = torch.where(live.unsqueeze(-1), result, out)
    out.copy_(result)


def _write(*arguments: Any) -> None:
    prepared: Any = as_prepared(*arguments[:-1])
    out, call, (gate, up, *vectors) = arguments[-1], prepared[-1], prepared[:-1]
    *vectors, row_weight, experts = vectors
    if call.eager or isinstance(call.scalar, Tensor):
        _write_rows(out, decompositions.forward(*prepared), experts, call)
    else:
        options = *vectors, *call[:NUMBERS], row_weight, experts, call.rows
        _ops.glu_forward_out(gate, up, call.variant, call.layout, out, *options)


_write_traced = dispatch.one_node(_write)


def _refuse_derivatives(*tensors: Tensor | None) -> None:
    wants = torch.is_grad_enabled() and require_grad(*tensors)
    if wants or (forward_ad._current_level >= 0 and any(map(dispatch.has_tangent, tensors))):
        raise RuntimeError(
            "out: expected no argument that requires grad or has a tangent, because out= is not "
            "differentiable; call it under torch.no_grad() or without out="
        )
