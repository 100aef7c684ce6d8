"""The operators of quantised results: each with its implementation for fake tensors."""

from typing import Any

from torch import Tensor

from fused_acts import _checks
from fused_acts._formats import Quantization, check_results, has_counts
from fused_acts._ops import Options, operator

_OPTIONS, _QUANTIZATION = 9, 5  # arguments


def _results(
    gate: Tensor, up: Tensor | None, rest: tuple[Any, ...], of_rows: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """rest: up to the scale."""
    options = Options(*rest[:_OPTIONS], *of_rows)
    chosen = Quantization(*rest[_OPTIONS:-1])
    shape = options.check(gate, up)
    chosen.check(gate, up, shape[-1], rest[-1])
    return chosen.new_results(gate, shape, has_counts(options.rows))


@operator
def glu_quantized(gate: Tensor, up: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    count = _OPTIONS + _QUANTIZATION + 1
    return _results(gate, up, rest[:count], rest[count:])


@operator
def glu_quantized_out(gate: Tensor, up: Tensor | None, *rest: Any) -> None:
    count = _OPTIONS + _QUANTIZATION + 1
    values, scales, *of_rows = rest[count:]
    like = _results(gate, up, rest[:count], tuple(of_rows))
    check_results(values, scales, like, Quantization(*rest[_OPTIONS : count - 1]).name)


_BLOCKS = Quantization(3, 0, False, False, 0.0)  # fp8_block128, its scales by rows


@operator
def quantize_blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    _checks.check_operand("x", x)
    _BLOCKS.check(x, None, x.shape[-1], None)
    return _BLOCKS.new_results(x, x.shape, False)


@operator
def dequantize_blocks(values: Tensor, scales: Tensor, dtype: int) -> Tensor:
    if not 0 < dtype < len(_checks.DTYPES):
        raise ValueError(f"dtype: expected 1, 2 or 3, not float64, got {dtype}")
    _checks.check_dense("values", values)
    if values.dim() == 0:
        raise ValueError("values: expected at least one dimension, got a 0-d tensor")
    like = _BLOCKS.new_results(values, values.shape, False)
    _checks.check_matches("values", values, values.shape, like[0])
    _checks.check_matches("scales", scales, like[1].shape, like[1])
    return values.new_empty(values.shape, dtype=_checks.DTYPES[dtype])
