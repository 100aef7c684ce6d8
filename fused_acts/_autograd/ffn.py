"""A feed-forward block as one autograd Function.

down(f(gate(x)) * g(up(x))), or without a gate down(f(up(x))), where up stands in gate's place.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from fused_acts import _ops
from fused_acts._autograd import context, decompositions, dispatch, gated, saved
from fused_acts._autograd.blocks import Recompute, differentiable_backward, is_batched
from fused_acts._autograd.gated_backward import claim, only_needed
from fused_acts._call import NUMBERS, Call, is_unary
from fused_acts._layouts import unpack_bias
from fused_acts._nested import on_values

# Tokens at a time where nothing is recorded on the CPU: few enough for their pre-activations to
# stay in the caches, enough for the products with the weights to be as fast as in one piece.
_BLOCK = 1024


class Inputs(NamedTuple):
    """The input and the weights of a block."""

    x: Tensor  # [..., d_model], in the Function [tokens, d_model]
    down: Tensor  # [d_model, d_ff]
    down_bias: Tensor | None  # [d_model]
    # Of gate and up, [d_ff] and [d_ff, d_model] each, or of both in one; or of up alone.
    biases: tuple[Tensor | None, ...]
    projections: tuple[Tensor, ...]

    @classmethod
    def of(cls, tensors: Sequence[Any]) -> "Inputs":
        x, down, down_bias, *rest = tensors
        middle = len(rest) // 2
        return cls(x, down, down_bias, tuple(rest[:middle]), tuple(rest[middle:]))

    def flat(self) -> tuple[Tensor | None, ...]:
        return *self[:3], *self.biases, *self.projections

    def hidden(self) -> list[Tensor]:
        """gate and up, or what holds both."""
        return [linear(self.x, weight) for weight in self.projections]

    def bias_pair(self, call: Call) -> tuple[Tensor | None, Tensor | None]:
        """Of gate and up."""
        gate_bias, *up_bias = self.biases
        if up_bias or gate_bias is None or is_unary(call.variant):
            return gate_bias, up_bias[0] if up_bias else None
        return unpack_bias(gate_bias, 0)


def _pair(hidden: Iterable[Tensor]) -> tuple[Tensor, Tensor | None]:
    """gate and up; or what holds both, and None."""
    gate, *up = hidden
    return gate, up[0] if up else None


def _unit(hidden: Iterable[Tensor], inputs: Inputs, call: Call) -> Tensor:
    unit = saved.gated if call.save else gated.gated
    return unit(*_pair(hidden), *inputs.bias_pair(call), None, None, None, call)


def _decomposed(call: Call, inputs: Inputs) -> Tensor:
    """Of differentiable operations: for the transforms and for derivatives of the derivative."""
    return linear(_unit(inputs.hidden(), inputs, call), inputs.down, inputs.down_bias)


def _of_tensors(call: Call, *tensors: Tensor | None) -> Tensor:
    return _decomposed(call, Inputs.of(tensors))


class _FFN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, recompute: Recompute, *tensors: Tensor | None) -> Tensor:
        inputs = Inputs.of(tensors)
        hidden = inputs.hidden()
        product = _unit(hidden, inputs, call)
        kept: list[Tensor | None] = [] if recompute == "all" else [*hidden]
        if call.save:
            kept = [*saved.quantized(hidden, call)]
        if recompute == "none":
            needs_down = Inputs.of(ctx.needs_input_grad[2:]).down
            kept.append(product if needs_down else None)
        ctx.save_for_backward(*tensors, *kept)
        ctx.call, ctx.recompute, ctx.count, ctx.written = call, recompute, len(tensors), False
        return linear(product, inputs.down, inputs.down_bias)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        if context.autocasts(grad_y):  # what is saved has the dtypes that its products are to have
            with torch.autocast(grad_y.device.type, enabled=False):
                return _FFN._backward(ctx, grad_y)
        return _FFN._backward(ctx, grad_y)

    @staticmethod
    def _backward(ctx: Any, grad_y: Tensor) -> Any:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        inputs, kept = Inputs.of(tensors[: ctx.count]), tensors[ctx.count :]
        if torch.is_grad_enabled() or is_batched(grad_y):
            function = partial(_of_tensors, ctx.call)
            return None, None, *differentiable_backward(function, inputs.flat(), needed, grad_y)
        needs: Any = Inputs.of(needed)  # of flags

        # Which gradients the unit's kernel is to compute.
        needs_hidden = [needs.x or need for need in needs.projections]
        wanted = (needs_hidden[0], needs_hidden[-1], needs.biases[0], needs.biases[-1], False)
        *hidden, product = kept if ctx.recompute == "none" else (*kept, None)
        needs_unit, needs_product = any(wanted), needs.down and product is None
        claimed = False
        if (needs_unit or needs_product) and ctx.call.save:
            hidden = saved.dequantized(hidden, grad_y, ctx.call)
        elif needs_unit or needs_product:
            # By one thread at a time, also where it only reads.
            claimed = bool(hidden) and claim(ctx)
            hidden = hidden if claimed else inputs.hidden()
        grad_biases: tuple[Tensor | None, ...] = (None,) * len(inputs.biases)
        if needs_unit:
            # They take the place of gate and up, which nobody else can see, and the product that
            # of its own gradient.
            grad_product = torch.mm(grad_y, inputs.down)
            vectors = _ops.current().glu_backward_inplace(
                *(grad_product, *_pair(hidden), *inputs.bias_pair(ctx.call), None),
                *ctx.call[:6],
                _ops.needs_mask(*wanted),
                needs_product,
            )
            grad_biases = _bias_gradients(ctx.call, vectors, inputs.biases, needs.biases)
            product = grad_product if needs_product else product
            del grad_product
        elif needs_product:
            product = _unit(hidden, inputs, ctx.call)
            if claimed:
                ctx.written = False  # others may read what is still there

        grad_down = torch.mm(grad_y.t(), product) if needs.down else None
        del product  # whose memory the others take
        grad_x = None
        if needs.x:
            for grad, weight in zip(hidden, inputs.projections, strict=True):
                grad_x = (
                    torch.mm(grad, weight) if grad_x is None else torch.addmm(grad_x, grad, weight)
                )
        grad_projections = [
            torch.mm(hidden[i].t(), inputs.x) if need else None
            for i, need in enumerate(needs.projections)
        ]
        grad_down_bias = grad_y.sum(0) if needs.down_bias else None
        return None, None, grad_x, grad_down, grad_down_bias, *grad_biases, *grad_projections


def _bias_gradients(call: Call, vectors: Any, biases: Any, needs: Any) -> tuple[Tensor | None, ...]:
    if len(biases) == 1 and not is_unary(call.variant):
        return (torch.cat(vectors[:2]) if needs[0] else None,)
    return only_needed(vectors[: len(biases)], biases, needs)


_apply = dispatch.raw_apply(_FFN)


def _traced(recompute: Recompute, call: Call, *tensors: Tensor | None) -> Any:
    """For AOTAutograd, which does not know the numbers of some calls."""
    is_symbolic = any(isinstance(number, decompositions.SYMBOLS) for number in call[:NUMBERS])
    if is_symbolic or torch.compiler.is_exporting():
        return _of_tensors(call, *tensors)
    return _apply(call, recompute, *tensors)


_traced_node = dispatch.one_node(_traced)


def _in_blocks(call: Call, inputs: Inputs) -> Tensor:
    """Without a gradient, through one workspace: fresh large tensors cost more than the unit."""
    x, down, down_bias, _, projections = inputs
    tokens, (gate_bias, up_bias) = x.shape[0], inputs.bias_pair(call)
    hidden = [x.new_empty(_BLOCK, weight.shape[0]) for weight in projections]
    product = x.new_empty(_BLOCK, down.shape[1])
    y = x.new_empty(tokens, down.shape[0])
    for begin in range(0, tokens, _BLOCK):
        rows = x[begin : begin + _BLOCK]
        n = rows.shape[0]
        for weight, pre in zip(projections, hidden, strict=True):
            torch.mm(rows, weight.t(), out=pre[:n])
        gate, up = _pair(pre[:n] for pre in hidden)
        gated.gated_out(gate, up, gate_bias, up_bias, None, None, None, call, product[:n])
        out = y[begin : begin + n]
        if down_bias is None:
            torch.mm(product[:n], down.t(), out=out)
        else:
            torch.addmm(down_bias, product[:n], down.t(), out=out)
    return y


def _on_rows(function: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
    """function of x [tokens, d_model], for an x of any rank."""
    x = inputs.x
    if x.dim() == 2:
        return function(inputs)
    y = function(inputs._replace(x=x.unsqueeze(0).flatten(0, -2)))
    return y.reshape(*x.shape[:-1], inputs.down.shape[0])


def _special(call: Call, recompute: Recompute, inputs: Inputs) -> Tensor:
    """Of nested tensors, under autocast, or where `dispatch.is_looked_at`."""
    x = inputs.x
    if x.is_nested:
        return on_values(lambda rows: block(call, recompute, inputs._replace(x=rows)), x=x)
    if context.autocasts(x):
        dtype = torch.get_autocast_dtype(x.device.type)
        cast = (t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in inputs.flat())
        with torch.autocast(x.device.type, enabled=False):
            return block(call, recompute, Inputs.of(tuple(cast)))
    is_decomposed = dispatch.is_transformed()
    if torch.compiler.is_dynamo_compiling() and not is_decomposed:
        if _records(inputs) and dispatch.compiles_to_kernels():
            return _on_rows(lambda rows: _traced_node(recompute, call, *rows.flat()), inputs)
        is_decomposed = True
    # A recorded program would count blocks once and for all.
    if is_decomposed or dispatch.is_recorded():
        return _on_rows(partial(_decomposed, call), inputs)
    return _eager(call, recompute, inputs)


def _records(inputs: Inputs) -> bool:
    return torch.is_grad_enabled() and dispatch.require_grad(*inputs.flat())


def _eager(call: Call, recompute: Recompute, inputs: Inputs) -> Tensor:
    x = inputs.x
    if _records(inputs):
        return _on_rows(lambda rows: _apply(call, recompute, *rows.flat()), inputs)
    if x.is_cpu and x.numel() > _BLOCK * x.shape[-1]:
        return _on_rows(partial(_in_blocks, call), inputs)
    return _decomposed(call, inputs)


def block(call: Call, recompute: Recompute, inputs: Inputs) -> Tensor:
    """[..., d_model] to [..., d_model], by the shortest way that is right where it is called."""
    if dispatch.is_looked_at() or context.autocasts(inputs.x) or inputs.x.is_nested:
        return _special(call, recompute, inputs)
    return _eager(call, recompute, inputs)
