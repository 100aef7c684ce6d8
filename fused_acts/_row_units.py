"""The units of whole rows as the operators number them, and checks of their arguments in Python."""

import torch
from torch import Tensor

from fused_acts import _checks

# As RowUnit in csrc/math/row_units.h: rms_norm_gated with the norm before the gate, by swish and by
# sigmoid, and behind it.
POLYNORM, TOP_K = 4, 5
GATES = ("swish", "sigmoid")
_OPERANDS = {POLYNORM: ("gate", "up", "coefficients"), TOP_K: ("gate", "up", "weight")}
_STATISTICS = {POLYNORM: 3, TOP_K: 2}  # of a group; the others have one
_COEFFICIENTS = 3


def norm_unit(gate: str, norm_before_gate: bool) -> int:
    return GATES.index(gate) + (0 if norm_before_gate else len(GATES))


def gate_of(unit: int) -> str:
    return GATES[unit % len(GATES)]


def norms_first(unit: int) -> bool:
    return unit < len(GATES)


def check_call(
    first: Tensor,
    second: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    unit: int,
    number: float,
    groups: int,
) -> torch.Size:
    """Checks a call as the operators do and returns the shape of the result."""
    if not 0 <= unit <= TOP_K:
        raise ValueError(f"unit: expected an index below {TOP_K + 1}, got {unit}")
    first_name, second_name, weight_name = _OPERANDS.get(unit, ("x", "z", "weight"))
    _checks.check_operand(first_name, first)
    _checks.check_matches(second_name, second, first.shape, first)
    width = first.shape[-1]
    for name, vector, size in (
        (weight_name, weight, {POLYNORM: _COEFFICIENTS, TOP_K: None}.get(unit, width)),
        ("bias", bias, 1 if unit == POLYNORM else None),
    ):
        if (vector is None) != (size is None):
            raise ValueError(f"{name}: expected {'none' if size is None else 'a tensor'}")
        if vector is not None and size is not None:
            _check_vector(name, vector, size, first_name, first)
    if groups < 1 or width % groups or (groups > 1 and unit in (POLYNORM, TOP_K)):
        raise ValueError(f"groups: expected a divisor of the last dimension, {width}, got {groups}")
    if unit == TOP_K and not 0 < number < 1:
        raise ValueError(f"sparsity: expected between 0 and 1, got {number}")
    return first.shape


def _check_vector(name: str, vector: Tensor, size: int, like_name: str, like: Tensor) -> None:
    _checks.check_dense(name, vector)
    real = torch.promote_types(like.dtype, torch.float32)
    if vector.dtype not in (like.dtype, real):
        expected = " or ".join(dict.fromkeys(map(str, (like.dtype, real))))
        raise TypeError(f"{name}: expected dtype {expected}, got {vector.dtype}")
    if vector.device != like.device:
        raise ValueError(
            f"{name}: expected the device of {like_name}, {like.device}, got {vector.device}"
        )
    if list(vector.shape) != [size]:
        raise ValueError(f"{name}: expected shape [{size}], got {list(vector.shape)}")


def new_statistics(first: Tensor, unit: int, groups: int) -> Tensor:
    """[..., groups * statistics of a group], not filled."""
    real = torch.promote_types(first.dtype, torch.float32)
    count = groups * _STATISTICS.get(unit, 1)
    return first.new_empty((*first.shape[:-1], count), dtype=real)
