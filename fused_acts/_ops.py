"""The operators torch.ops.fused_acts.*: each with its implementation for fake tensors.

A fake becomes the operator of its name. Gradients and results that a call did not ask for are
empty tensors. Those without tensors, info_*, are called from _build_info.py.

`gated`, `maxout`, `softmax_glu` and `row_unit` are forward operators to which _autograd registers
derivatives, for the programs that torch.export, torch.jit.trace and make_fx record. Eager code
calls the others, because the way through the dispatcher is longer where there is a derivative.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_acts._build_info import check_gpu, check_tables
from fused_acts._call import is_unary
from fused_acts._checks import (
    check_call,
    check_groups,
    check_matches,
    check_numbers,
    check_operand,
    check_pieces,
    out_shape,
)
from fused_acts._library import BUILD, load
from fused_acts._row_units import check_call as check_row_unit
from fused_acts._row_units import new_statistics
from fused_acts.tables import ROWS

load()
check_tables()
check_gpu()

OPERATORS: list[torch._ops.OpOverload] = []
# The same by name, without the layer of Python around them, which only Dynamo needs.
direct: Any = SimpleNamespace()


_overloads: Any = sys.modules[__name__]
_is_dynamo = torch.compiler.is_dynamo_compiling


def current() -> Any:
    """Where the operators are to be called by their names."""
    return _overloads if _is_dynamo() else direct


# Of torch's allocator, and of CUDA's where that is turned off.
_OUT_OF_MEMORY = "CUDA out of memory", "CUDA error: out of memory"


def telling_memory(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The operator with torch's own error where the memory of a GPU does not suffice.

    The library has torch's words for it, but knows no kind of errors that is torch's.
    """

    def call(*args: Any) -> Any:
        try:
            return operator(*args)
        except RuntimeError as error:
            if str(error).startswith(_OUT_OF_MEMORY):
                raise torch.OutOfMemoryError(str(error)) from None
            raise

    return call


def operator(fake: Callable[..., Any]) -> Any:
    overload = getattr(torch.ops.fused_acts, fake.__name__).default
    torch.library.register_fake(overload, fake)
    OPERATORS.append(overload)
    has_gpus = bool(BUILD.get("cuda_version"))
    setattr(direct, fake.__name__, telling_memory(overload._op) if has_gpus else overload._op)
    return overload


def needs_mask(
    gate: bool,
    up: bool,
    gate_bias: bool,
    up_bias: bool,
    parameter: bool,
    row_weight: bool = False,
    experts: bool = False,
) -> int:
    """Which gradients are needed, as the operators take it; there is none by experts."""
    return gate + 2 * up + 4 * gate_bias + 8 * up_bias + 16 * parameter + 32 * row_weight


class Options(NamedTuple):
    """What operators take beside gate and up."""

    gate_bias: Tensor | None
    up_bias: Tensor | None
    parameter: Tensor | None
    scalar: Any
    second: Any
    limit: Any
    weight: Any
    variant: int
    layout: int
    row_weight: Tensor | None = None
    experts: Tensor | None = None
    rows: int = 0

    def check(self, gate: Tensor, up: Tensor | None) -> torch.Size:
        """The shape of out."""
        check_numbers(up, self.variant, self.layout, self.limit)
        vectors = self.gate_bias, self.up_bias, self.parameter, self.row_weight, self.experts
        return check_call(gate, up, *vectors, self.variant, self.layout, self.rows)

    def vectors(self) -> tuple[Tensor | None, ...]:
        """What there are gradients by."""
        return self.gate_bias, self.up_bias, self.parameter, self.row_weight


def _new_result(gate: Tensor, shape: torch.Size, options: Options) -> Tensor:
    """An activation of a dense x keeps its strides, unless columns or rows have values."""
    vectors, variant = options.vectors(), options.variant
    if not is_unary(variant) or options.experts is not None or vectors[3] is not None:
        return gate.new_empty(shape)
    rank = len(ROWS[variant].parameters)  # two lie one above the other
    by_elements = all(v is None or (v.dim() <= rank and v.shape[-1:].numel() == 1) for v in vectors)
    if by_elements and not any(v is not None for v in vectors[:2]):
        like = torch.empty_like(gate)
        if like.stride() == gate.stride():
            return like
    return gate.new_empty(shape)


def _forward(gate: Tensor, up: Tensor | None, *options: Any) -> Tensor:
    given = Options(*options)
    return _new_result(gate, given.check(gate, up), given)


@operator
def glu_forward(gate: Tensor, up: Tensor | None, variant: int, layout: int) -> Tensor:
    return _forward(gate, up, *_NO_OPTIONS, variant, layout)


@operator
def glu_forward_options(gate: Tensor, up: Tensor | None, *options: Any) -> Tensor:
    return _forward(gate, up, *options)


@operator
def gated(gate: Tensor, up: Tensor | None, *options: Any) -> Tensor:
    return _forward(gate, up, *options)


@operator
def glu_forward_numbers(gate: Tensor, up: Tensor | None, *options: Any) -> Tensor:
    return _forward(gate, up, *options)


_NO_OPTIONS = None, None, None, 1.0, 1.0, None, 1.0


@operator
def glu_forward_out(
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: int,
    out: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    parameter: Tensor | None = None,
    scalar: float = 1.0,
    second: float = 1.0,
    limit: float | None = None,
    weight: float = 1.0,
    *of_rows: Any,
) -> None:
    numbers = scalar, second, limit, weight
    options = Options(gate_bias, up_bias, parameter, *numbers, variant, layout, *of_rows)
    check_matches("out", out, options.check(gate, up), gate)


def _inputs(
    grad_out: Tensor, gate: Tensor, up: Tensor | None, options: Options, needs: int
) -> tuple[Tensor, Tensor]:
    check_matches("grad_out", grad_out, options.check(gate, up), gate)
    grad_gate = _new_result(gate, gate.shape, options) if needs & 1 else gate.new_empty(0)
    return grad_gate, gate.new_empty(gate.shape if needs & 2 and up is not None else 0)


def _vectors(gate: Tensor, options: Options, needs: int) -> tuple[Tensor, ...]:
    return tuple(
        gate.new_empty(0) if vector is None or not needs & bit else vector.new_empty(vector.shape)
        for vector, bit in zip(options.vectors(), (4, 8, 16, 32), strict=True)
    )


@operator
def glu_backward(
    grad_out: Tensor, gate: Tensor, up: Tensor | None, variant: int, layout: int, needs: int
) -> Any:
    return _inputs(grad_out, gate, up, Options(*_NO_OPTIONS, variant, layout), needs)


_BEFORE_ROWS = 9  # options


def _backward(grad_out: Tensor, gate: Tensor, up: Tensor | None, *rest: Any) -> Any:
    needs, of_rows = rest[_BEFORE_ROWS], rest[_BEFORE_ROWS + 1 :]
    options = Options(*rest[:_BEFORE_ROWS], *of_rows)
    return *_inputs(grad_out, gate, up, options, needs), *_vectors(gate, options, needs)


@operator
def glu_backward_options(grad_out: Tensor, gate: Tensor, up: Tensor | None, *rest: Any) -> Any:
    return _backward(grad_out, gate, up, *rest)


@operator
def glu_backward_numbers(grad_out: Tensor, gate: Tensor, up: Tensor | None, *rest: Any) -> Any:
    return _backward(grad_out, gate, up, *rest)


@operator
def glu_backward_inplace(grad_out: Tensor, gate: Tensor, up: Tensor | None, *rest: Any) -> Any:
    needs, of_rows = rest[_BEFORE_ROWS], rest[_BEFORE_ROWS + 2 :]
    options = Options(*rest[:_BEFORE_ROWS], *of_rows)
    check_matches("grad_out", grad_out, options.check(gate, up), gate)
    return _vectors(gate, options, needs)


@operator
def glu_double_backward(
    grad_out: Tensor | None,
    gate: Tensor,
    up: Tensor | None,
    gate_tangent: Tensor | None,
    up_tangent: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    *options, needs_out, needs_inputs = rest
    shape = Options(*options).check(gate, up)
    tangents = {"gate_tangent": gate_tangent, "up_tangent": up_tangent}
    for name, tensor in {"grad_out": grad_out, **tangents}.items():
        if tensor is not None:
            check_matches(name, tensor, shape if tensor is grad_out else gate.shape, gate)
    return (
        gate.new_empty(shape if needs_out else 0),
        gate.new_empty(gate.shape if needs_inputs else 0),
        gate.new_empty(gate.shape if needs_inputs and up is not None else 0),
    )


def _maxout(x: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    check_operand("x", x)
    check_pieces(pieces)
    check_groups(x, pieces, -1)
    shape = (*x.shape[:-1], x.shape[-1] // pieces)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.uint8)


@operator
def maxout_forward(x: Tensor, pieces: int) -> Any:
    return _maxout(x, pieces)


@operator
def maxout(x: Tensor, pieces: int) -> Any:
    return _maxout(x, pieces)


@operator
def maxout_backward(grad_out: Tensor, winner: Tensor, pieces: int) -> Tensor:
    check_operand("grad_out", grad_out)
    check_pieces(pieces)
    expected = grad_out.new_empty(grad_out.shape, dtype=torch.uint8)
    check_matches("winner", winner, expected.shape, expected)
    *rows, cols = grad_out.shape
    return grad_out.new_empty((*rows, cols * pieces))


def _stats(gate: Tensor) -> Tensor:
    real = torch.promote_types(gate.dtype, torch.float32)
    return gate.new_empty((*gate.shape[:-1], 2), dtype=real)


@operator
def softmax_glu_forward(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(out_shape(gate, up)), _stats(gate)


@operator
def softmax_glu(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(out_shape(gate, up)), _stats(gate)


@operator
def softmax_glu_backward(
    grad_out: Tensor, gate: Tensor, up: Tensor, stats: Tensor, needs_gate: bool, needs_up: bool
) -> tuple[Tensor, Tensor]:
    check_matches("grad_out", grad_out, out_shape(gate, up), gate)
    expected = _stats(gate)
    check_matches("stats", stats, expected.shape, expected)
    grad_gate = gate.new_empty(gate.shape if needs_gate else 0)
    return grad_gate, gate.new_empty(gate.shape if needs_up else 0)


def _row_unit(first: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    *_, unit, _number, groups = call
    shape = check_row_unit(first, *call)
    return first.new_empty(shape), new_statistics(first, unit, groups)


@operator
def row_unit_forward(first: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    return _row_unit(first, *call)


@operator
def row_unit(first: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    return _row_unit(first, *call)


@operator
def row_unit_backward(
    grad_out: Tensor,
    first: Tensor,
    second: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    stats: Tensor,
    unit: int,
    number: float,
    groups: int,
    needs: int,
) -> tuple[Tensor, ...]:
    shape = check_row_unit(first, second, weight, bias, unit, number, groups)
    check_matches("grad_out", grad_out, shape, first)
    expected = new_statistics(first, unit, groups)
    check_matches("stats", stats, expected.shape, expected)
    return tuple(
        first.new_empty(0)
        if tensor is None or not needs >> i & 1
        else tensor.new_empty(tensor.shape)
        for i, tensor in enumerate((first, second, weight, bias))
    )
