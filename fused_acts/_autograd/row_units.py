"""Differentiation of the units of whole rows: their Functions, and their formulas in torch.

A call is (first, second, weight, bias, unit, number, groups) as the operators take it: the operands
of fused_acts/_row_units.py, eps or the sparsity, and the groups of columns that have
statistics of their own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops
from fused_acts._autograd import decompositions, dispatch
from fused_acts._row_units import POLYNORM, TOP_K, check_call, gate_of, norms_first

_OPERANDS = 4


class _RowUnit(torch.autograd.Function):
    @staticmethod
    def forward(
        first: Tensor,
        second: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        unit: int,
        number: float,
        groups: int,
    ) -> Any:
        operator = _ops.current().row_unit_forward
        return operator(first, second, weight, bias, unit, number, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.call = inputs[_OPERANDS:]
        ctx.save_for_backward(*inputs[:_OPERANDS], output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, _: None) -> Any:
        if grad_out is None:
            return (None,) * 7
        needs = ctx.needs_input_grad[:_OPERANDS]
        return *_row_unit_grad(grad_out, *ctx.saved_tensors, *ctx.call, needs), None, None, None


class _RowUnitTransformable(_RowUnit):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _RowUnit.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:_OPERANDS])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        # The backward pass is linear in grad_out, so its transpose is the forward derivative.
        with dispatch.lift_primals(ctx.saved_tensors[:_OPERANDS]) as operands:
            formula = partial(_gradients, call=ctx.call, needs=_present(operands))
            inputs = torch.zeros_like(operands[0]), *operands
            return decompositions.vjp(formula, inputs, tangents[:_OPERANDS])[0], None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        if any(dim is not None for dim in in_dims[2:_OPERANDS]):
            (out,), dims = dispatch.vmap_decomposition(
                lambda *inputs: (_decomposed(*inputs)[0],), info, in_dims, args
            )
            return (out, None), (*dims, None)
        operands = dispatch.batch_first(info, in_dims[:2], args[:2])
        return row_unit(*operands, *args[2:]), (0, 0)


class _RowUnitGrad(torch.autograd.Function):
    """The gradients by the operands. stats is a function of them, not asked for its gradient."""

    @staticmethod
    def forward(
        grad_out: Tensor,
        first: Tensor,
        second: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        stats: Tensor,
        unit: int,
        number: float,
        groups: int,
        needs: tuple[bool, ...],
    ) -> Any:
        mask = sum(need << i for i, need in enumerate(needs))
        grads = _ops.current().row_unit_backward(
            grad_out, first, second, weight, bias, stats, unit, number, groups, mask
        )
        return tuple(grad if need else None for grad, need in zip(grads, needs, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[: _OPERANDS + 1])
        *ctx.call, ctx.needs = inputs[_OPERANDS + 2 :]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> Any:
        formula = partial(_gradients, call=ctx.call, needs=ctx.needs)
        grads = decompositions.vjp(formula, ctx.saved_tensors, grad_grads)
        return *grads, None, None, None, None, None


class _RowUnitGradTransformable(_RowUnitGrad):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _RowUnitGrad.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[: _OPERANDS + 1])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        # The gradients are derivatives of sum(grad_out * out), whose second derivatives are
        # symmetric: by the operands, the forward derivative is the backward one. One rounding.
        with dispatch.lift_primals(ctx.saved_tensors) as inputs:
            real = torch.promote_types(inputs[0].dtype, torch.float32)
            dtypes = [None if t is None else t.dtype for t in inputs[1:]]
            inputs = [None if t is None else t.to(real) for t in inputs]
            seed, *along = (None if t is None else t.to(real) for t in tangents[: _OPERANDS + 1])
            formula = partial(_gradients, call=ctx.call, needs=_present(inputs[1:]))
            results = decompositions.vjp(formula, inputs, along)[1:]
            if seed is not None:
                linear = formula(seed, *inputs[1:])
                results = [b if a is None else a + b for a, b in zip(results, linear, strict=True)]
        return tuple(
            None if result is None or not need else result.to(dtype)
            for result, dtype, need in zip(results, dtypes, ctx.needs, strict=True)
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        *_, needs = args
        # A sum over rows is one for each element of the batch, which the kernel does not keep apart
        if any(needs[2:]) or any(dim is not None for dim in in_dims[3 : _OPERANDS + 1]):
            return dispatch.vmap_decomposition(_decomposed_gradients, info, in_dims, args)
        tensors = (*args[:3], args[5])
        dims = (*in_dims[:3], in_dims[5])
        grad_out, first, second, stats = dispatch.batch_first(info, dims, tensors)
        grads = _row_unit_grad(grad_out, first, second, *args[3:5], stats, *args[6:])
        return grads, tuple(None if grad is None else 0 for grad in grads)


def _present(operands: Sequence[Tensor | None]) -> tuple[bool, ...]:
    return tuple(operand is not None for operand in operands)


def _quantile(sparsity: Any) -> Any:
    """Of the standard normal distribution."""
    if isinstance(sparsity, decompositions.SYMBOLS):
        return torch.special.ndtri(decompositions.number_tensor(sparsity))
    return NormalDist().inv_cdf(sparsity)


def _norm(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _formula(
    first: Tensor,
    second: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    unit: int,
    number: float,
    groups: int,
) -> Tensor:
    """In the type of the arithmetic, rounded once."""
    check_call(first, second, weight, bias, unit, number, groups)
    real = torch.promote_types(first.dtype, torch.float32)
    x, y = first.to(real), second.to(real)
    if unit == TOP_K:
        deviation = x.std(-1, correction=0, keepdim=True)
        cut = x.mean(-1, keepdim=True) + _quantile(number) * deviation
        active = torch.nn.functional.relu(x - cut)
        return (torch.nn.functional.gelu(active, approximate="tanh") * y).to(first.dtype)
    assert weight is not None
    weight = weight.to(real)
    if unit == POLYNORM:
        assert bias is not None
        powers = x**3, x.square(), x
        terms = [weight[i] * _norm(power, number) for i, power in enumerate(powers)]
        return ((terms[0] + terms[1] + terms[2] + bias.to(real)) * y).to(first.dtype)
    gate = torch.sigmoid(y) if gate_of(unit) == "sigmoid" else torch.nn.functional.silu(y)
    before = norms_first(unit)
    grouped = (x if before else x * gate).unflatten(-1, (groups, x.shape[-1] // groups))
    normed = _norm(grouped, number).flatten(-2) * weight
    return (normed * gate if before else normed).to(first.dtype)


def _decomposed(*inputs: Any) -> tuple[Tensor, None]:
    return _formula(*inputs), None


def _gradients(grad_out: Tensor, *operands: Any, call: Any, needs: Any) -> Any:
    """Gradients by the operands that are needed."""
    grads = decompositions.vjp(lambda *tensors: _formula(*tensors, *call), operands, (grad_out,))
    return tuple(grad if need else None for grad, need in zip(grads, needs, strict=True))


def _decomposed_gradients(grad_out: Tensor, *inputs: Any) -> Any:
    *operands, _stats, unit, number, groups, needs = inputs
    return _gradients(grad_out, *operands, call=(unit, number, groups), needs=needs)


def _decomposed_recorded(*inputs: Any) -> tuple[Tensor, Tensor]:
    return _formula(*inputs), _ops.row_unit_forward(*inputs)[1]


dispatch.register_recorded(
    _ops.row_unit, _RowUnit.backward, _RowUnit.setup_context, _decomposed_recorded, of_rows=2
)

row_unit: Callable[..., tuple[Tensor, Tensor | None]] = dispatch.dispatcher(
    _RowUnit,
    _RowUnitTransformable,
    _decomposed,
    dispatch.entry(_RowUnit, _RowUnitTransformable, _decomposed, _ops.row_unit),
)
_row_unit_grad: Callable[..., dispatch.Gradients] = dispatch.dispatcher(
    _RowUnitGrad, _RowUnitGradTransformable, _decomposed_gradients
)
