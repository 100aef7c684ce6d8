"""A mixture of experts as one autograd Function.

y[t] = sum over j of weights[t, j] * expert(ids[t, j], x[t]), where expert e is
down[e](f(gate[e](x)) * g(up[e](x))), or without a gate down[e](f(up[e](x))). The weights are
multiplied by in the unit, so that all of it but the biases of down is products of sorted rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fused_acts import _ops
from fused_acts._autograd import context, decompositions, dispatch, gated, grouped, saved
from fused_acts._autograd.blocks import Recompute, differentiable_backward, is_batched
from fused_acts._autograd.gated_backward import claim
from fused_acts._autograd.routing import Routing
from fused_acts._call import NUMBERS, ROW_KINDS, ZERO_PADDING, Call, is_unary, parse
from fused_acts._layouts import pack, unpack_bias
from fused_acts.tables import ROWS


class Inputs(NamedTuple):
    """The tokens and the weights of their experts, of any strides."""

    x: Tensor  # [tokens, d_model]
    gate_up: Tensor  # [experts, 2 * d_ff, d_model], packed as the call's layout has it
    gate_up_bias: Tensor | None  # [experts, 2 * d_ff]
    down: Tensor  # [experts, d_model, d_ff]
    down_bias: Tensor | None  # [experts, d_model]

    def biases(self, call: Call) -> tuple[Tensor | None, Tensor | None]:
        """Of gate and up."""
        if self.gate_up_bias is None or is_unary(call.variant):
            return self.gate_up_bias, None
        return unpack_bias(self.gate_up_bias, call.layout)


def _real(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


# What a row has of the bias of its expert is a unit, too: (0 + bias) * 1 * weight.
_PRODUCT = next(i for i, row in ROWS.items() if row.formula == "gate * up")
_BIAS = parse(_PRODUCT, "gate_up")
_BIAS = _BIAS._replace(rows=ROW_KINDS["offs"] + ZERO_PADDING, has_options=True)


def _bias_unit(rows: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Its gate, up and gate_bias."""
    real = _real(rows)
    gate = torch.zeros(rows.shape[1], dtype=real, device=rows.device)
    return gate.expand(rows.shape), torch.ones_like(gate).expand(rows.shape), bias.to(real)


def _summed(
    summed: Callable[[Tensor], Tensor],
    rows: Tensor,
    weights: Tensor,
    bias: Tensor | None,
    offs: Tensor,
) -> Tensor:
    """The sum of each token's rows and of their biases, times the weights of the rows."""
    if bias is None:
        return summed(rows)
    operands = *_bias_unit(rows, bias), None, None, weights.to(_real(rows)), offs
    return summed(rows.to(_real(rows)) + gated.gated(*operands, _BIAS)).to(rows.dtype)


def _bias_gradients(
    grad_rows: Tensor, weights: Tensor, bias: Tensor, offs: Tensor, by_bias: bool, by_weights: bool
) -> tuple[Tensor, Tensor]:
    """Of the biases in _summed, by bias and by weights."""
    real = _real(grad_rows)
    _, _, of_bias, _, _, of_weights = _ops.current().glu_backward_options(
        *(grad_rows.to(real), *_bias_unit(grad_rows, bias), None, None),
        *_BIAS[:6],
        _ops.needs_mask(False, False, by_bias, False, False, by_weights),
        *(weights.to(real), offs, _BIAS.rows),
    )
    return of_bias.to(bias.dtype), of_weights


def _unit(hidden: Tensor, inputs: Inputs, weights: Tensor, offs: Tensor, call: Call) -> Tensor:
    unit = saved.gated if call.save else gated.gated
    return unit(hidden, None, *inputs.biases(call), None, weights, offs, call)


def _decomposed(
    call: Call, ids: Tensor, weights: Tensor, *tensors: Any, multiply: Any = grouped.product
) -> Tensor:
    """Of differentiable operations: for the transforms and for derivatives of the derivative."""
    inputs = Inputs(*tensors)
    routing = Routing.of(ids, inputs.down.shape[0])
    rows = routing.rows_of_slots(inputs.x)
    hidden = multiply(rows, inputs.gate_up.transpose(1, 2), routing.offs)
    of_rows = routing.sorted(weights)
    product = _unit(hidden, inputs, of_rows, routing.offs, call)
    rows = multiply(product, inputs.down.transpose(1, 2), routing.offs)

    def summed(rows: Tensor) -> Tensor:
        return routing.slots(rows).sum(1)

    return _summed(summed, rows, of_rows, inputs.down_bias, routing.offs)


def _hidden(inputs: Inputs, routing: Routing) -> Tensor:
    """gate and up of each row, packed."""
    rows = routing.rows(inputs.x)
    return grouped.without_derivatives(rows, inputs.gate_up.transpose(1, 2), routing.offs)


def _by_matrix(grad_out: Tensor, rows: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """The gradient by weight [experts, out, in], in its memory order."""
    if weight.stride(-1) == 1:
        return grouped.without_derivatives(grad_out.t(), rows, offs)
    return grouped.without_derivatives(rows.t(), grad_out, offs).transpose(1, 2)


def _computed(
    call: Call, ids: Tensor, weights: Tensor, inputs: Inputs
) -> tuple[Tensor, Routing, Tensor, Tensor]:
    """The result, and what it was made by: the routing, gate and up, and the unit's product."""
    routing = Routing.of(ids, inputs.down.shape[0])
    hidden = _hidden(inputs, routing)
    of_rows = routing.sorted(weights)
    product = _unit(hidden, inputs, of_rows, routing.offs, call)
    rows = grouped.without_derivatives(product, inputs.down.transpose(1, 2), routing.offs)
    y = _summed(routing.summed, rows, of_rows, inputs.down_bias, routing.offs)
    return y, routing, hidden, product


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: Call, recompute: Recompute, ids: Tensor, weights: Tensor, *tensors: Any
    ) -> Tensor:
        y, routing, hidden, product = _computed(call, ids, weights, Inputs(*tensors))
        kept: list[Tensor | None] = [] if recompute == "all" else [hidden]
        if call.save:
            kept = [*saved.quantized([hidden], call)]
        if recompute == "none":
            kept.append(product if Inputs(*ctx.needs_input_grad[4:]).down else None)
        ctx.save_for_backward(routing.order, routing.offs, ids, weights, *tensors, *kept)
        ctx.call, ctx.recompute, ctx.written = call, recompute, False
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        if context.autocasts(grad_y):  # what is saved has the dtypes that its products are to have
            with torch.autocast(grad_y.device.type, enabled=False):
                return _Experts._backward(ctx, grad_y)
        return _Experts._backward(ctx, grad_y)

    @staticmethod
    def _backward(ctx: Any, grad_y: Tensor) -> Any:
        order, offs, ids, weights, *rest = ctx.saved_tensors
        tensors, kept = rest[:5], rest[5:]
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or is_batched(grad_y):
            function = partial(_decomposed, ctx.call, ids)
            grads = differentiable_backward(function, (weights, *tensors), needed, grad_y)
            return None, None, None, *grads
        inputs, routing = Inputs(*tensors), Routing(order, offs, ids.shape)
        needs_weights, needs = needed[0], Inputs(*needed[1:])  # of flags

        *kept, product = kept if ctx.recompute == "none" else (*kept, None)
        hidden: Any = None
        needs_hidden = needs.x or needs.gate_up
        needs_unit = needs_hidden or needs.gate_up_bias or needs_weights
        needs_product = needs.down and product is None
        claimed = False
        if (needs_unit or needs_product) and ctx.call.save:
            (hidden,) = saved.dequantized(kept, grad_y, ctx.call)
        elif needs_unit or needs_product:
            # By one thread at a time, also where it only reads.
            claimed = bool(kept) and claim(ctx)
            hidden = kept[0] if claimed else _hidden(inputs, routing)
        of_rows = routing.sorted(weights)
        bias: Any = inputs.down_bias
        needs_bias = bias is not None and (needs.down_bias or needs_weights)
        grad_rows: Any = None
        if needs_unit or needs.down or needs_bias:
            grad_rows = routing.rows(grad_y)
        by_x = by_gate_up = by_bias = by_down = by_down_bias = None
        by_weights: Any = None
        if needs_unit:
            # They take the place of gate and up, which nobody else can see, and the product that
            # of its own gradient.
            grad_product = grouped.without_derivatives(grad_rows, inputs.down, offs)
            wanted = (needs_hidden, False, *[needs.gate_up_bias] * 2, False, needs_weights)
            *by_biases, _, by_row_weight = _ops.current().glu_backward_inplace(
                *(grad_product, hidden, None, *inputs.biases(ctx.call), None),
                *ctx.call[:6],
                _ops.needs_mask(*wanted),
                needs_product,
                *(of_rows, offs, ctx.call.rows),
            )
            if needs.gate_up_bias:
                gate_bias, up_bias = by_biases
                is_packed = not is_unary(ctx.call.variant)
                by_bias = pack(gate_bias, up_bias, ctx.call.layout) if is_packed else gate_bias
            by_weights = by_row_weight if needs_weights else None
            product = grad_product if needs_product else product
            del grad_product
        elif needs_product:
            product = _unit(hidden, inputs, of_rows, offs, ctx.call)
            if claimed:
                ctx.written = False  # others may read what is still there

        if needs_bias:
            flags = bool(needs.down_bias), needs_weights
            by_down_bias, more = _bias_gradients(grad_rows, of_rows, bias, offs, *flags)
            by_down_bias = by_down_bias if needs.down_bias else None
            if needs_weights:
                by_weights = (by_weights + more).to(weights.dtype)
        if needs.down:
            by_down = _by_matrix(grad_rows, product, inputs.down, offs)
        del product, grad_rows  # whose memory the others take
        if needs.gate_up:
            by_gate_up = _by_matrix(hidden, routing.rows(inputs.x), inputs.gate_up, offs)
        if needs.x:
            by_x = routing.summed(grouped.without_derivatives(hidden, inputs.gate_up, offs))
        by_weights = None if by_weights is None else routing.slots(by_weights)
        return None, None, None, by_weights, by_x, by_gate_up, by_bias, by_down, by_down_bias


_apply = dispatch.raw_apply(_Experts)


def _run(records: bool, call: Call, recompute: Recompute, *tensors: Any) -> Any:
    if records:
        return _apply(call, recompute, *tensors)
    ids, weights, *inputs = tensors
    return _computed(call, ids, weights, Inputs(*inputs))[0]


def _traced(records: bool, call: Call, recompute: Recompute, *tensors: Any) -> Any:
    """For AOTAutograd, which does not know the numbers of some calls."""
    is_symbolic = any(isinstance(number, decompositions.SYMBOLS) for number in call[:NUMBERS])
    if is_symbolic or torch.compiler.is_exporting():
        return _decomposed(call, *tensors)
    return _run(records, call, recompute, *tensors)


_traced_node = dispatch.one_node(_traced)


def experts(
    call: Call, recompute: Recompute, inputs: Inputs, expert_ids: Tensor, expert_weights: Tensor
) -> Tensor:
    """[tokens, d_model] to the same, by the shortest way that is right where it is called.

    expert_ids, expert_weights: [tokens, k]; an id outside of [0, experts) adds nothing.
    """
    x = inputs.x
    if context.autocasts(x):
        dtype = torch.get_autocast_dtype(x.device.type)
        cast: Any = (t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in inputs)
        with torch.autocast(x.device.type, enabled=False):
            return experts(call, recompute, Inputs(*cast), expert_ids, expert_weights)
    if expert_weights.dtype not in (x.dtype, _real(x)):
        expert_weights = expert_weights.to(_real(x))
    tensors: Sequence[Any] = (expert_ids, expert_weights, *inputs)
    call = call._replace(rows=ROW_KINDS["offs"], has_options=True)
    # Weights that are more than numbers: quantised ones, and what else torch calls a subclass.
    if any(map(is_traceable_wrapper_subclass, inputs[1:])):
        return _decomposed(call, *tensors, multiply=grouped.composed)
    run: Any = _run
    if dispatch.is_looked_at():
        is_compiled = torch.compiler.is_dynamo_compiling()
        is_decomposed = dispatch.is_transformed() or (
            not dispatch.compiles_to_kernels() if is_compiled else dispatch.is_recorded()
        )
        if is_decomposed:
            return _decomposed(call, *tensors)
        run = _traced_node if is_compiled else _run
    records = torch.is_grad_enabled() and dispatch.require_grad(*tensors)
    y: Tensor = run(records, call, recompute, *tensors)
    return y
