"""The gated units with gate and up kept in eight bits for the backward pass.

Kept of each of the two are values in e4m3 and, for each 128 columns of a row, a scale in float32. A
packed x is kept as [..., 2, cols]. The gradients are those of what these stand for, in the dtype of
gate; they cannot be differentiated again, for there is nothing exact to do it by.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops
from fused_acts._autograd import dispatch
from fused_acts._autograd import gated as exact
from fused_acts._autograd.blocks import is_batched
from fused_acts._autograd.gated_backward import glu_backward
from fused_acts._autograd.gated_second import OPERANDS
from fused_acts._call import Call, is_unary
from fused_acts._checks import DTYPES
from fused_acts._layouts import is_interleaved, pack, unpack
from fused_acts._nested import on_values


def _is_packed(hidden: Sequence[Tensor], call: Call) -> bool:
    return len(hidden) == 1 and not is_unary(call.variant)


def _halves(x: Tensor, layout: int) -> Tensor:
    """[..., 2, cols] of a packed x; a view where each half is in one piece."""
    if is_interleaved(layout):
        return torch.stack(unpack(x, layout), -2)
    return torch.unflatten(x, -1, (2, x.shape[-1] // 2))


def quantized(hidden: Sequence[Tensor], call: Call) -> list[Tensor]:
    """The values and the scales of gate and of up, or of what holds both."""
    if _is_packed(hidden, call):
        hidden = [_halves(hidden[0], call.layout)]
    return [part for x in hidden for part in _ops.direct.quantize_blocks(x)]


def dequantized(kept: Sequence[Tensor], grad: Tensor, call: Call) -> list[Tensor]:
    """New tensors in the place of those that were quantised, in the dtype of grad."""
    dtype = DTYPES.index(grad.dtype)
    pairs = zip(kept[::2], kept[1::2], strict=True)
    hidden = [_ops.direct.dequantize_blocks(*pair, dtype) for pair in pairs]
    if not _is_packed(hidden, call):
        return hidden
    halves = hidden[0]
    if is_interleaved(call.layout):
        gate, up = halves.unbind(-2)
        return [pack(gate, up, call.layout)]
    return [halves.flatten(-2)]


def _check_backward(grad: Tensor) -> None:
    """Raises if the pass is to be differentiated, or is several in one."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "save: expected a backward pass without create_graph, because gate and up were kept in "
            "eight bits, by which the gradients cannot be differentiated"
        )
    if is_batched(grad):
        raise RuntimeError("save: expected one backward pass at a time, got is_grads_batched")


def _check_forward(*operands: Tensor | None) -> None:
    if torch._C._are_functorch_transforms_active() or any(map(dispatch.has_tangent, operands)):
        raise RuntimeError(
            "save: expected None under the transforms of torch.func and in forward mode, which "
            "differentiate gate and up themselves"
        )


class _SavedGlu(torch.autograd.Function):
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
    ) -> Tensor:
        vectors = gate_bias, up_bias, parameter, row_weight, experts
        out = exact.gated(gate, up, *vectors, call)
        kept = quantized((gate,) if up is None else (gate, up), call)
        ctx.save_for_backward(*vectors, *kept)
        ctx.call = call
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        _check_backward(grad_out)
        tensors, count = ctx.saved_tensors, OPERANDS - 2  # read once, as checkpoints want it
        vectors, kept = tensors[:count], tensors[count:]
        gate, *up = dequantized(kept, grad_out, ctx.call)
        needs = ctx.needs_input_grad[:OPERANDS]
        operands = gate, up[0] if up else None, *vectors
        return *glu_backward(grad_out, *operands, ctx.call, needs), None


_apply = dispatch.raw_apply(_SavedGlu)


def _traced(*arguments: Any) -> Any:
    is_kept = torch.is_grad_enabled() and dispatch.require_grad(*arguments)
    if not is_kept or torch.compiler.is_exporting():
        return exact.gated(*arguments)
    return _apply(*exact.as_prepared(*arguments))


_traced_node = dispatch.one_node(_traced)


def _special(gate: Tensor, up: Tensor | None, *rest: Any) -> Any:
    """Where `dispatch.is_looked_at`."""
    if gate.is_nested:
        return on_values(lambda gate, up=None: gated(gate, up, *rest), gate=gate, up=up)
    *vectors, call = rest
    operands: Any = gate, up, *vectors
    _check_forward(*operands)
    if torch.compiler.is_dynamo_compiling():
        return _traced_node(*operands, call)
    if dispatch.is_recorded():
        return exact.gated(gate, up, *rest)
    return _traced(*operands, call)


def check_savable(gate: Tensor) -> None:
    if gate.dtype == torch.float64:
        raise TypeError(f"save: expected float32, float16 or bfloat16, got {gate.dtype}")


def gated(*arguments: Any) -> Tensor:
    """What `gated.gated` is, of a call with save."""
    check_savable(arguments[0])
    if dispatch.is_looked_at():
        y: Tensor = _special(*arguments)
    elif torch.is_grad_enabled() and dispatch.require_grad(*arguments):
        y = _apply(*arguments)
    else:
        y = exact.gated(*arguments)
    return y
