"""Argument checks in Python: for fake tensors and decompositions, and for who explains an error.

The operators check for themselves; nothing here runs on the way to a kernel.
"""

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fused_acts._call import COMPOSED, NAMES, ROW_KINDS, ZERO_PADDING, is_unary
from fused_acts._layouts import block_of
from fused_acts.tables import ROWS, TABLE_SIZE

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MOST_PIECES = 256  # a winner is a byte


def check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout)
        raise TypeError(f"{name}: expected a dense tensor, torch.strided, got a {kind} one")


def check_matches(name: str, tensor: Tensor, shape: torch.Size, like: Tensor) -> None:
    check_dense(name, tensor)
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name}: expected dtype {like.dtype}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got one on {tensor.device}")
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")


def check_operand(name: str, tensor: Tensor) -> None:
    check_dense(name, tensor)
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"{name}: expected float64, float32, float16 or bfloat16, got {tensor.dtype}"
        )
    if tensor.dim() == 0:
        raise ValueError(f"{name}: expected at least one dimension, got a 0-d tensor")


def out_shape(gate: Tensor, up: Tensor | None, variant: int = 0, block: int = 1) -> torch.Size:
    """Checks the inputs of a unit or an activation and returns the shape of its output."""
    check_operand("x" if up is None else "gate", gate)
    if up is not None:
        check_matches("up", up, gate.shape, gate)
        return gate.shape
    if is_unary(variant):
        return gate.shape
    *rows, width = gate.shape
    if width % 2:
        raise ValueError(
            f"x: expected an even last dimension, gate and up packed, got shape {list(gate.shape)}"
        )
    if width % (2 * block):
        raise ValueError(
            f"x: expected a last dimension of whole blocks, 2 * {block} each, got shape "
            f"{list(gate.shape)}"
        )
    return torch.Size((*rows, width // 2))


def _check_beside(gate: Tensor, name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    check_dense(name, tensor)
    if tensor.dtype not in dtypes:
        expected = " or ".join(dict.fromkeys(map(str, dtypes)))
        raise TypeError(f"{name}: expected dtype {expected}, got {tensor.dtype}")
    if tensor.device != gate.device:
        raise ValueError(f"{name}: expected a tensor on {gate.device}, got one on {tensor.device}")


def check_rows(
    gate: Tensor, weight: Tensor | None, experts: Tensor | None, rows: int
) -> int | None:
    """Checks what each row has, and what says whose they are; how many experts, if that does."""
    shape = list(gate.shape[:-1])
    if weight is not None:
        _check_beside(gate, "weight", weight, *_real_dtypes(gate))
        if list(weight.shape) != shape:
            raise ValueError(
                f"weight: expected a number or a value for each row, shape {shape}, got "
                f"{list(weight.shape)}"
            )
    kind = rows % ZERO_PADDING
    if experts is None or not kind:
        return None
    name = {index: name for name, index in ROW_KINDS.items()}[kind]
    _check_beside(gate, name, experts, torch.int32)
    if name == "row_expert":
        if list(experts.shape) != shape:
            raise ValueError(
                f"{name}: expected one for each row, shape {shape}, got {list(experts.shape)}"
            )
        return None
    if name == "counts" and gate.dim() != 3:
        raise ValueError(
            f"counts: expected gate as [experts, rows, cols], got shape {list(gate.shape)}"
        )
    if experts.dim() != 1 or (name == "offs" and not experts.numel()):
        raise ValueError(f"{name}: expected shape [experts], got {list(experts.shape)}")
    if name == "counts" and len(experts) != shape[0]:
        raise ValueError(f"counts: expected shape {shape[:1]}, got {list(experts.shape)}")
    return len(experts)


def check_each_expert(name: str, value: Tensor, experts: int | None) -> None:
    """Checks a parameter that may have a value for each expert, if their number is known."""
    if experts is not None and value.dim() == 1 and len(value) not in (1, experts):
        raise ValueError(
            f"{name}: expected a value for each of {experts} experts, got {list(value.shape)}"
        )


def _real_dtypes(gate: Tensor) -> tuple[torch.dtype, torch.dtype]:
    return gate.dtype, torch.promote_types(gate.dtype, torch.float32)


def check_row_vectors(
    gate: Tensor,
    cols: int,
    vectors: Mapping[str, Tensor | None],
    packed: bool = False,
    experts: int | None = 0,
) -> None:
    """Checks what all rows share: biases and parameters [cols], a packed bias [2 * cols].

    experts: of how many of them each may have its own; None: of any number.
    """
    for name, vector in vectors.items():
        if vector is None:
            continue
        _check_beside(gate, name, vector, *_real_dtypes(gate))
        if experts != 0 and vector.dim() == 2:
            if experts is None:
                experts = len(vector)
            if len(vector) != experts or not experts:
                raise ValueError(
                    f"{name}: expected values for {experts} experts, got {list(vector.shape)}"
                )
            vector = vector[0]
        is_bias = name.endswith("bias")
        if not is_bias and vector.dim() <= 1 and vector.numel() == 1:
            continue
        shape = [2 * cols if name == "bias" and packed else cols]
        if list(vector.shape) != shape:
            expected = f"shape {shape}" + ("" if is_bias else " or a single value")
            raise ValueError(f"{name}: expected {expected}, got {list(vector.shape)}")


def check_call(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    row_weight: Tensor | None,
    experts: Tensor | None,
    variant: int,
    layout: int,
    rows: int,
) -> torch.Size:
    """Checks the tensors of a call of an operator and returns the shape of its output."""
    shape = out_shape(gate, up, variant, block_of(layout))
    bias = "bias" if is_unary(variant) else "gate_bias"
    vectors = {bias: gate_bias, "up_bias": up_bias, "parameter": parameter}
    if parameter is not None and len(ROWS[variant].parameters) == 2:
        if parameter.dim() not in (2, 2 + bool(rows)) or parameter.shape[0] != 2:
            raise ValueError(
                f"parameter: expected [2, cols] or [2, 1], got {list(parameter.shape)}"
            )
        vectors["parameter"] = parameter[0]
    count = check_rows(gate, row_weight, experts, rows)
    check_row_vectors(gate, shape[-1], vectors, experts=count if rows else 0)
    return shape


def check_compiled(argument: str, variant: int) -> None:
    if variant in COMPOSED:
        raise RuntimeError(
            f"{argument}: expected a compiled unit, and {NAMES[variant]} is composed of its "
            "reference, for there was no compiler when it was defined"
        )


def check_numbers(up: Tensor | None, variant: int, layout: int, limit: Any = math.inf) -> None:
    """Checks what an operator takes beside tensors."""
    if variant not in ROWS:
        raise ValueError(
            f"variant: expected an index below {TABLE_SIZE}, or that of a unit that "
            f"fused_acts.define made in this process, got {variant}"
        )
    if layout < 0:
        raise ValueError(f"layout: expected an index that is not negative, got {layout}")
    if is_unary(variant) and layout:
        raise ValueError(f"layout: expected 0 for an activation, which has no up, got {layout}")
    if is_unary(variant) and up is not None:
        raise ValueError("up: expected none for an activation")
    if isinstance(limit, float) and not limit >= 0:
        raise ValueError(f"limit: expected a number that is not negative, got {limit}")


def integer(name: str, value: Any) -> int:
    """A Python integer, of one or of NumPy's."""
    try:
        if isinstance(value, bool | Tensor):
            raise TypeError
        return operator.index(value)
    except TypeError:
        got = type(value).__name__
        raise TypeError(f"{name}: expected an integer, got {got}") from None


def check_pieces(pieces: int) -> None:
    if not 1 <= pieces <= MOST_PIECES:
        raise ValueError(f"pieces: expected 1 to {MOST_PIECES}, got {pieces}")


def check_groups(x: Tensor, pieces: int, dim: int) -> None:
    if x.shape[dim] % pieces:
        raise ValueError(
            f"x: expected a dimension {dim} divisible by pieces = {pieces}, got shape "
            f"{list(x.shape)}"
        )


def check_pair(gate: Tensor, up: Tensor) -> None:
    out_shape(gate, up)
