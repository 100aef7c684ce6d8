"""A feed-forward block, down(f(gate(x)) * g(up(x))), as one autograd Function.

Its matrices are two-dimensional; `projections` stands for the weights of gate and up, [d_ff,
d_model] each, or for the one that holds both, [2 * d_ff, d_model].
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import linear

from fused_acts import _ops, autograd, dispatch
from fused_acts.options import Call

# What is kept for backward, in elements a token: d_model + 3 * d_ff, d_model + 2 * d_ff, d_model.
RECOMPUTE = ("none", "product", "all")

# Tokens at a time where nothing is recorded on the CPU: few enough for their pre-activations to
# stay in the caches, enough for the products with the weights to be as fast as in one piece.
_BLOCK = 1024


def _pair(hidden: Iterable[Tensor]) -> tuple[Tensor, Tensor | None]:
    """gate and up; or what holds both, and None."""
    gate, *up = hidden
    return gate, up[0] if up else None


def _unit(hidden: Any, gate_bias: Tensor | None, up_bias: Tensor | None, call: Call) -> Tensor:
    return autograd.gated(*_pair(hidden), gate_bias, up_bias, None, call)


def composed(
    call: Call,
    x: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    *projections: Tensor,
) -> Tensor:
    """Of differentiable operations: for the transforms and for derivatives of the derivative."""
    product = _unit([linear(x, weight) for weight in projections], gate_bias, up_bias, call)
    return linear(product, down, down_bias)


class _FFN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        recompute: str,
        x: Tensor,
        gate_bias: Tensor | None,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        *projections: Tensor,
    ) -> Tensor:
        hidden = [linear(x, weight) for weight in projections]
        product = _unit(hidden, gate_bias, up_bias, call)
        inputs = (x, gate_bias, up_bias, down, down_bias, *projections)
        kept: list[Tensor | None] = [] if recompute == "all" else [*hidden]
        if recompute == "none":
            kept.append(product if ctx.needs_input_grad[5] else None)
        ctx.save_for_backward(*inputs, *kept)
        ctx.call, ctx.recompute, ctx.count, ctx.written = call, recompute, len(inputs), False
        return linear(product, down, down_bias)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        needs = ctx.needs_input_grad[2:]
        saved = ctx.saved_tensors
        inputs, kept = saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled() or _is_batched(grad_y):
            return None, None, *_differentiable_backward(ctx.call, inputs, needs, grad_y)
        x, gate_bias, up_bias, down, down_bias, *projections = inputs
        needs_x, needs_gate_bias, needs_up_bias, needs_down, needs_down_bias, *needs_weights = needs

        # Which gradients the unit's kernel is to compute.
        needs_hidden = [needs_x or need for need in needs_weights]
        wanted = (needs_hidden[0], needs_hidden[-1], needs_gate_bias, needs_up_bias, False)
        *hidden, product = kept if ctx.recompute == "none" else (*kept, None)
        needs_product = needs_down and product is None
        if (any(wanted) or needs_product) and (not hidden or ctx.written):
            hidden = [linear(x, weight) for weight in projections]
        sums = x.new_empty(0)
        if any(wanted):
            # They take the place of gate and up, which nobody else can see, and the product that
            # of its own gradient.
            ctx.written = True
            grad_product = grad_y @ down
            operands = (grad_product, *_pair(hidden), gate_bias, up_bias, None)
            sums = _ops.glu_backward_inplace(
                *operands, *_ops.numbers(ctx.call), _ops.bits(wanted), needs_product
            )
            product = grad_product if needs_product else product
            del operands, grad_product
        elif needs_product:
            product = _unit(hidden, gate_bias, up_bias, ctx.call)

        grad_down = grad_y.t() @ product if needs_down else None
        del product  # whose memory the others take
        grad_x = None
        if needs_x:
            for grad, weight in zip(hidden, projections, strict=True):
                grad_x = grad @ weight if grad_x is None else torch.addmm(grad_x, grad, weight)
        return (
            None,
            None,
            grad_x,
            *autograd.row_gradients(sums, gate_bias, up_bias, None, wanted)[:2],
            grad_down,
            grad_y.sum(0) if needs_down_bias else None,
            *(hidden[i].t() @ x if need else None for i, need in enumerate(needs_weights)),
        )


def _is_batched(tensor: Tensor) -> bool:
    """Whether several backward passes run as one: is_grads_batched, or vmap."""
    if torch.compiler.is_compiling():
        return False
    batched = torch._C._functorch
    return bool(batched.is_legacy_batchedtensor(tensor) or batched.is_batchedtensor(tensor))


def _differentiable_backward(call: Call, inputs: Any, needs: Any, grad_y: Tensor) -> Any:
    with torch.enable_grad():
        # By aliases: one input may be another one, or computed from it.
        inputs = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        y = composed(call, *inputs)
    wanted = [tensor for tensor, need in zip(inputs, needs, strict=True) if need]
    grads = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=torch.is_grad_enabled()))
    return tuple(next(grads) if need else None for need in needs)


_apply = dispatch.raw_apply(_FFN)


def _in_blocks(call: Call, x: Tensor, *weights: Any) -> Tensor:
    """Without a gradient, through one workspace: fresh large tensors cost more than the unit."""
    gate_bias, up_bias, down, down_bias, *projections = weights
    tokens = x.shape[0]
    hidden = [x.new_empty(_BLOCK, weight.shape[0]) for weight in projections]
    product = x.new_empty(_BLOCK, down.shape[1])
    y = x.new_empty(tokens, down.shape[0])
    for begin in range(0, tokens, _BLOCK):
        rows = x[begin : begin + _BLOCK]
        n = rows.shape[0]
        for weight, pre in zip(projections, hidden, strict=True):
            torch.mm(rows, weight.t(), out=pre[:n])
        gate, up = _pair(pre[:n] for pre in hidden)
        autograd.glu_forward_out(gate, up, gate_bias, up_bias, None, call, product[:n])
        out = y[begin : begin + n]
        if down_bias is None:
            torch.mm(product[:n], down.t(), out=out)
        else:
            torch.addmm(down_bias, product[:n], down.t(), out=out)
    return y


def _is_traced() -> bool:
    """By torch.jit, which would count the blocks once and for all."""
    return torch._C._get_tracing_state() is not None


def gated_ffn(
    call: Call,
    recompute: str,
    x: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    *projections: Tensor,
) -> Tensor:
    """[..., d_model] to [..., d_model], by the shortest way that is right where it is called."""
    rows = x.unsqueeze(0).flatten(0, -2)  # [tokens, d_model]
    inputs: Any = (rows, gate_bias, up_bias, down, down_bias, *projections)
    compiling = torch.compiler.is_compiling()
    if dispatch.autocasts(x):
        dtype = torch.get_autocast_dtype(x.device.type)
        cast = (t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in inputs)
        with torch.autocast(x.device.type, enabled=False):
            y = gated_ffn(call, recompute, *cast)
    elif torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        y = composed(call, *inputs)
    elif torch.is_grad_enabled() and dispatch.require_grad(*inputs):
        if not compiling:
            y = _apply(call, recompute, *inputs)
        elif dispatch._compile_form == "kernel":
            y = _FFN.apply(call, recompute, *inputs)  # type: ignore[no-untyped-call]
        else:
            y = composed(call, *inputs)
    elif x.device.type == "cpu" and rows.shape[0] > _BLOCK and not (compiling or _is_traced()):
        y = _in_blocks(call, *inputs)
    else:
        y = composed(call, *inputs)
    return y.reshape(*x.shape[:-1], down.shape[0])
