"""Differentiation of the gated units: autograd Functions over torch.ops.fused_acts.*.

`operands` stands for (gate, up, gate_bias, up_bias, parameter). In all of them up is None when gate
is a packed x: [..., 2 * cols], and so is the gradient of up.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fused_acts import _ops, composed, dispatch
from fused_acts.dispatch import Gradients, require_grad
from fused_acts.options import DEFAULTS, Call
from fused_acts.second_order import OPERANDS, double_backward


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


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
        if call.plain:
            return _ops.glu_forward(gate, up, call.variant, call.layout % 3)
        if call.eager:
            return composed.forward(gate, up, gate_bias, up_bias, parameter, call)
        return _ops.glu_forward_options(
            gate, up, gate_bias, up_bias, parameter, *_ops.numbers(call)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        call = ctx.call = inputs[-1]
        # What is not there takes as long to save.
        ctx.save_for_backward(*inputs[: 2 if call.plain else OPERANDS])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None) -> Any:
        if grad_out is None:
            return (None,) * (OPERANDS + 1)
        needs = ctx.needs_input_grad[:OPERANDS]
        if ctx.call.inplace and not torch.compiler.is_compiling():
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
        with dispatch.next_level(ctx.saved_tensors) as operands:
            return double_backward(tangents[:OPERANDS], None, operands, ctx.call, True, False)[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        if any(dim is not None for dim in in_dims[2:OPERANDS]):
            outputs, dims = dispatch.vmap_plain(
                lambda *inputs: (composed.forward(*inputs),), info, in_dims, args
            )
            return outputs[0], dims[0]
        gate, up = dispatch.batch_first(info, in_dims[:2], args[:2])
        return gated(gate, up, *args[2:]), 0


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
        grad_gate, grad_up, sums = _ops.glu_backward(
            grad_out,
            *(gate, up, gate_bias, up_bias, parameter),
            *_ops.numbers(call),
            _ops.bits(needs),
        )
        return (
            grad_gate if needs[0] else None,
            grad_up if needs[1] and up is not None else None,
            *row_gradients(sums, gate_bias, up_bias, parameter, needs),
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
        with dispatch.next_level(ctx.saved_tensors) as (grad_out, *operands):
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
            return dispatch.vmap_plain(composed.backward, info, in_dims, args)
        tensors = dispatch.batch_first(info, in_dims[:3], args[:3])
        grads = glu_backward(*tensors, *args[3:])
        return grads, tuple(None if grad is None else 0 for grad in grads)


gated: Callable[..., Tensor] = dispatch.dispatcher(
    _Glu, _GluTransformable, composed.forward, require_grad
)
_apply: Callable[..., Tensor] = dispatch.raw_apply(_Glu)
glu_backward: Callable[..., Gradients] = dispatch.dispatcher(
    _GluBackward, _GluBackwardTransformable, composed.backward, require_grad
)


def row_gradients(
    sums: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    needs: tuple[bool, ...],
) -> Gradients:
    """Gradients of the biases and the parameter from the sums over rows, [1, kinds, cols]."""
    results: list[Tensor | None] = []
    kind = 0
    for row, need in zip((gate_bias, up_bias, parameter), needs[2:], strict=True):
        if not need or row is None:
            results.append(None)
            continue
        total = sums[0, kind]
        if total.numel() == 0:
            results.append(torch.zeros_like(row))
        else:
            # A copy, because the sums of one call lie in one tensor.
            whole = total if row.numel() == total.numel() and row.dim() == 1 else total[:1]
            results.append(whole.reshape(row.shape).to(row.dtype, copy=True))
        kind += 1
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
    sums = _ops.glu_backward_inplace(
        grad_out, *operands, *_ops.numbers(ctx.call), _ops.bits(needs), False
    )
    ctx.written = True
    for tensor, need in ((gate, needs[0]), (up, needs[1])):
        if tensor is not None and need:
            torch.autograd.graph.increment_version(tensor)
    return (
        gate.detach() if needs[0] else None,
        up.detach() if up is not None and needs[1] else None,
        *row_gradients(sums, gate_bias, up_bias, parameter, needs),
    )


# Found once: a call on tiny tensors takes as long as a few dozen look-ups.
_transforms_active = torch._C._are_functorch_transforms_active
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled


def glu_forward(gate: Tensor, up: Tensor | None, variant: int, layout: int) -> Tensor:
    """A call without options by the shortest way: what `gated` does, in fewer steps."""
    if forward_ad._current_level >= 0 or _transforms_active() or _is_compiling():
        if dispatch.autocasts(gate):
            gate, up = dispatch.promoted(gate, up)
        return gated(gate, up, None, None, None, DEFAULTS[variant][layout])
    call = DEFAULTS[variant][layout]
    if _is_grad_enabled() and (gate.requires_grad or (up is not None and up.requires_grad)):
        return _apply(gate, up, None, None, None, call)
    if call.plain:
        return _ops.glu_forward_op(gate, up, variant, layout % 3)
    return _ops.glu_forward_options_op(gate, up, None, None, None, *_ops.numbers(call))


def glu_forward_out(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    call: Call,
    out: Tensor,
) -> Tensor:
    """Writes into out; autograd does not record it, so no argument may ask for a derivative."""
    operands = (gate, up, gate_bias, up_bias, parameter)
    if (torch.is_grad_enabled() and require_grad(*operands, out)) or (
        forward_ad._current_level >= 0 and any(map(dispatch.has_tangent, (*operands, out)))
    ):
        raise RuntimeError(
            "out: expected no argument that requires grad or has a tangent, because out= is not "
            "differentiable; call it under torch.no_grad() or without out="
        )
    if call.eager:
        result = composed.forward(*operands, call)
        _ops.check_matches("out", out, result.shape, result)
        out.copy_(result)
    else:
        _ops.glu_forward_out(*operands, *_ops.numbers(call), out)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(out)
    return out
