"""Gated units with statistics of whole rows: rms_norm_gated, polynorm_glu and topk_geglu."""

from functools import partial
from typing import Any

from torch import Tensor

from fused_acts import _checks, _nested
from fused_acts._autograd.context import autocasts, promoted_operands
from fused_acts._autograd.row_units import row_unit
from fused_acts._call import number, unknown
from fused_acts._row_units import GATES, POLYNORM, TOP_K, check_call, norm_unit
from fused_acts._run import FAILURES, check_tensors, recover
from fused_acts.functional import FUNCTIONS, refuse_script
from fused_acts.tables import ALIASES


def rms_norm_gated(
    x: Tensor,
    z: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    gate: str = "swish",
    norm_before_gate: bool = True,
    group_size: int | None = None,
) -> Tensor:
    """norm(x) * weight * f(z), or with the gate first norm(x * f(z)) * weight.

    norm(x) = x / sqrt(mean(x^2) + eps), the mean over the last dimension: RMSNorm of Zhang and
    Sennrich 2019, https://arxiv.org/abs/1910.07467, around the gate of Mamba 2, Dao and Gu 2024,
    https://arxiv.org/abs/2405.21060, which is before the norm there and behind it in Qwen3-Next and
    Kimi Linear. One kernel forward and one backward, which computes the gradient by weight in the
    same pass, and for which x, z and one number a group are kept. Derivatives of higher order and
    of forward mode are composed of torch's operations.

    Args:
        x: [..., cols], float64, float32, float16 or bfloat16, on the CPU or a CUDA device. Any row
            stride is read in place.
        z: [..., cols], the gate, of the shape, dtype and device of x.
        weight: [cols], in the dtype of x, or float32 beside 16-bit ones.
        eps: added to the mean.
        gate: f, "swish" (or "silu") or "sigmoid".
        norm_before_gate: whether x is normed, or x * f(z).
        group_size: how many neighbours have a mean of their own, a divisor of cols. None: all cols.

    Returns:
        [..., cols] in the dtype of x, contiguous. Computed in float32, or in float64 for float64,
        and rounded once. NaN in x or the normed product makes its group NaN, as in torch.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of x.
        ValueError: a shape or device does not match, x is 0-d, gate is unknown, or group_size does
            not divide cols.
    """
    check_tensors(x=x, z=z, weight=weight)
    unit = norm_unit(gate_name(gate), norm_before_gate)
    cols = x.shape[-1] if x.dim() else 0
    groups = 1 if group_size is None else group_count(cols, group_size)
    return _run(x, z, weight, None, unit, checked_eps(eps), groups)


def polynorm_glu(
    gate: Tensor, up: Tensor, coefficients: Tensor, bias: Tensor, eps: float = 1e-6
) -> Tensor:
    """(c0 * norm(gate^3) + c1 * norm(gate^2) + c2 * norm(gate) + bias) * up.

    norm(x) = x / sqrt(mean(x^2) + eps), the mean over the last dimension: PolyNorm of Zhuo et al.
    2024, https://arxiv.org/abs/2411.03884, as a gate, as in Motif. One kernel forward and one
    backward, which computes the gradients by coefficients and bias in the same pass, and for which
    gate, up and three numbers a row are kept. Derivatives of higher order and of forward mode are
    composed of torch's operations.

    Args:
        gate: [..., cols], float64, float32, float16 or bfloat16, on the CPU or a CUDA device. Any
            row stride is read in place.
        up: [..., cols], of the shape, dtype and device of gate.
        coefficients: [3], c0 to c2, in the dtype of gate, or float32 beside 16-bit ones.
        bias: [1], in the dtype of gate, or float32 beside 16-bit ones.
        eps: added to each mean.

    Returns:
        [..., cols] in the dtype of gate, contiguous. Computed in float32, or in float64 for
        float64, and rounded once. NaN in gate makes its row NaN, as in torch.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of gate.
        ValueError: a shape or device does not match, or gate is 0-d.
    """
    check_tensors(gate=gate, up=up, coefficients=coefficients, bias=bias)
    return _run(gate, up, coefficients, bias, POLYNORM, checked_eps(eps), 1)


def topk_geglu(gate: Tensor, up: Tensor, sparsity: float = 0.95) -> Tensor:
    """gelu_tanh(max(gate - (mean(gate) + q * std(gate)), 0)) * up.

    Mean and standard deviation (of all values, not one less) are over the last dimension, and q is
    the quantile of the normal distribution, so that the part `sparsity` of gates that are normally
    distributed becomes 0: the statistical top-k of Gemma 3n, You et al. 2025, "Spark Transformer",
    https://arxiv.org/abs/2506.06644. One kernel forward and one backward, for which gate, up and
    two numbers a row are kept. Derivatives of higher order and of forward mode are composed of
    torch's operations.

    Args:
        gate: [..., cols], float64, float32, float16 or bfloat16, on the CPU or a CUDA device. Any
            row stride is read in place.
        up: [..., cols], of the shape, dtype and device of gate.
        sparsity: the part of gates to cut, at least 0 and below 1. At 0 nothing is cut: geglu_tanh.

    Returns:
        [..., cols] in the dtype of gate, contiguous. Computed in float32, or in float64 for
        float64, and rounded once. NaN or an infinity in gate makes its row NaN, as in torch.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of gate.
        ValueError: a shape or device does not match, gate is 0-d, or sparsity is out of range.
    """
    check_tensors(gate=gate, up=up)
    check_sparsity(sparsity)
    if sparsity == 0:
        return FUNCTIONS["geglu_tanh"](gate, up)
    return _run(gate, up, None, None, TOP_K, float(sparsity), 1)


def checked_eps(eps: float) -> float:
    value = number("eps", eps)
    if not value >= 0:
        raise ValueError(f"eps: expected a number that is not negative, got {eps}")
    return value


def check_sparsity(sparsity: float) -> None:
    number("sparsity", sparsity)
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity: expected at least 0 and below 1, got {sparsity}")


def gate_name(gate: str) -> str:
    name = ALIASES.get(gate, gate)
    if name not in GATES:
        raise unknown("gate", gate, GATES)
    return name


def group_count(cols: int, group_size: Any) -> int:
    size = _checks.integer("group_size", group_size)
    if size < 1 or cols % size:
        raise ValueError(
            f"group_size: expected a divisor of the last dimension, {cols}, got {size}"
        )
    return max(cols // size, 1)


def _run(
    first: Tensor,
    second: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    unit: int,
    number: float,
    groups: int,
) -> Tensor:
    operands: tuple[Any, ...] = first, second, weight, bias
    if autocasts(first):
        operands = promoted_operands(*operands)
    try:
        return row_unit(*operands, unit, number, groups)[0]
    except FAILURES as error:
        call: Any = *operands, unit, number, groups
        return recover(error, partial(_run, *call), partial(_explain, *call))


def _explain(
    first: Tensor,
    second: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    unit: int,
    number: float,
    groups: int,
) -> Tensor | None:
    if first.is_nested:
        names = ("gate", "up") if unit in (POLYNORM, TOP_K) else ("x", "z")

        def of_values(first: Tensor, second: Tensor) -> Tensor:
            return _run(first, second, weight, bias, unit, number, groups)

        nested: Any = dict(zip(names, (first, second), strict=True))
        return _nested.on_values(of_values, **nested)
    check_call(first, second, weight, bias, unit, number, groups)
    return None


_functions: tuple[Any, ...] = rms_norm_gated, polynorm_glu, topk_geglu
for _function in _functions:
    _function.__prepare_scriptable__ = refuse_script
