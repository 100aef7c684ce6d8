"""What eight and four bits may be: formats, layouts of their scales, and results without values."""

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fused_acts import _checks
from fused_acts._call import ROW_KINDS, ZERO_PADDING

FormatName = Literal["fp8_tensor", "fp8_row", "int8_row", "fp8_block128", "mxfp8", "nvfp4"]
ScaleLayout = Literal["row", "col", "packed_ue8m0", "swizzled"]
ScaleRounding = Literal["none", "pow2"]
QuantizedRounding = Literal["storage", "single"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # of what is quantised


class Format(NamedTuple):
    values: torch.dtype
    scales: torch.dtype  # by rows
    group: int  # columns that share a scale; 0: those of a row
    layouts: tuple[ScaleLayout, ...]
    takes_scale: bool = False  # of the whole tensor
    takes_powers: bool = False  # whether scales may be made powers of two


_E4M3, _E8M0 = torch.float8_e4m3fn, torch.float8_e8m0fnu
_FLOAT = torch.float32
FORMATS: dict[str, Format] = {
    "fp8_tensor": Format(_E4M3, _FLOAT, 0, ("row",), takes_scale=True),
    "fp8_row": Format(_E4M3, _FLOAT, 0, ("row", "col"), takes_powers=True),
    "int8_row": Format(torch.int8, _FLOAT, 0, ("row", "col"), takes_powers=True),
    "fp8_block128": Format(_E4M3, _FLOAT, 128, ("row", "col", "packed_ue8m0"), takes_powers=True),
    "mxfp8": Format(_E4M3, _E8M0, 32, ("row", "packed_ue8m0", "swizzled"), takes_powers=True),
    "nvfp4": Format(torch.uint8, _E4M3, 16, ("row", "swizzled"), takes_scale=True),
}
# As the operators take them.
FORMAT_INDEX = {name: index for index, name in enumerate(FORMATS)}
SCALE_LAYOUT_INDEX = {name: index for index, name in enumerate(get_args(ScaleLayout))}
SCALE_ROUNDINGS = {name: index for index, name in enumerate(get_args(ScaleRounding))}
ROUNDINGS = {name: index for index, name in enumerate(get_args(QuantizedRounding))}


class Quantization(NamedTuple):
    """What the operators take beside the unit's own arguments, in their order."""

    format: int
    scale_layout: int
    power: bool
    single: bool
    amax_floor: Any

    @property
    def name(self) -> str:
        return [*FORMATS][self.format]

    @property
    def layout(self) -> str:
        names: tuple[str, ...] = get_args(ScaleLayout)
        return names[self.scale_layout]

    def check(self, gate: Tensor, up: Tensor | None, cols: int, scale: Tensor | None) -> None:
        """Of a call whose unit has passed its checks."""
        x = "x" if up is None else "gate"
        if not 0 <= self.format < len(FORMATS):
            raise ValueError(f"format: expected an index below {len(FORMATS)}, got {self.format}")
        if not 0 <= self.scale_layout < len(SCALE_LAYOUT_INDEX):
            raise ValueError(
                f"scale_layout: expected an index below {len(SCALE_LAYOUT_INDEX)}, got "
                f"{self.scale_layout}"
            )
        format, name = FORMATS[self.name], self.name
        if self.layout not in format.layouts:
            raise ValueError(
                f"scale_layout: expected {' or '.join(format.layouts)} with {name}, got "
                f"{self.layout}"
            )
        if self.power and not format.takes_powers:
            raise ValueError(f"scale_rounding: expected none with {name}, got pow2")
        if self.layout == "packed_ue8m0" and format.scales == _FLOAT and not self.power:
            raise ValueError(
                f"scale_rounding: expected pow2 with {name} and packed_ue8m0, got none"
            )
        check_floor(self.amax_floor, name)
        check_dtype(x, gate)
        if name == "nvfp4" and cols % 2:
            raise ValueError(
                f"{x}: expected an even number of columns with nvfp4, got {cols} of shape "
                f"{list(gate.shape)}"
            )
        check_scale(scale, name, gate)

    def new_results(
        self, gate: Tensor, shape: torch.Size, has_counts: bool
    ) -> tuple[Tensor, Tensor]:
        """Values and scales of a result of this shape, on the device of gate."""
        format = FORMATS[self.name]
        *lead, cols = shape
        width = cols // 2 if format.values == torch.uint8 else cols
        values = gate.new_empty((*lead, width), dtype=format.values)
        if self.name == "fp8_tensor":
            return values, gate.new_empty(0, dtype=_FLOAT)
        groups = _parts(cols, format.group) if format.group else 1
        if self.layout == "row":
            return values, gate.new_empty((*lead, groups), dtype=format.scales)
        matrices = lead[:1] if has_counts else []
        rows = math.prod(lead[len(matrices) :])
        if self.layout == "swizzled":
            padded = (*matrices, 128 * _parts(rows, 128), 4 * _parts(groups, 4))
            return values, gate.new_empty(padded, dtype=format.scales)
        packed = self.layout == "packed_ue8m0"
        columns = (*matrices, _parts(groups, 4) if packed else groups, 4 * _parts(rows, 4))
        return values, gate.new_empty(columns, dtype=torch.int32 if packed else _FLOAT).mT


def has_counts(rows: int) -> bool:
    """Whether each expert has a matrix of its own, by the kind of rows of a call."""
    return rows % ZERO_PADDING == ROW_KINDS["counts"]


def _parts(n: int, size: int) -> int:
    return (n + size - 1) // size


def check_dtype(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float32, float16 or bfloat16, got {tensor.dtype}")


def check_floor(amax_floor: float, name: str) -> None:
    if not 0 <= amax_floor <= torch.finfo(_FLOAT).max:
        raise ValueError(
            f"amax_floor: expected a finite number that is not negative, got {amax_floor}"
        )
    if name == "fp8_tensor" and amax_floor:
        raise ValueError(f"amax_floor: expected 0 with {name}, got {amax_floor}")


def check_scale(scale: Tensor | None, name: str, like: Tensor) -> None:
    if not FORMATS[name].takes_scale:
        if scale is not None:
            raise ValueError(f"scale: expected none with {name}, which has scales of its own")
        return
    if scale is None:
        raise ValueError(f"scale: expected a float32 tensor of one element with {name}, got none")
    _checks.check_dense("scale", scale)
    if scale.dtype != _FLOAT:
        raise TypeError(f"scale: expected dtype {_FLOAT}, got {scale.dtype}")
    if scale.device != like.device:
        raise ValueError(f"scale: expected a tensor on {like.device}, got one on {scale.device}")
    if scale.numel() != 1:
        raise ValueError(f"scale: expected one element, got shape {list(scale.shape)}")


def check_results(values: Tensor, scales: Tensor, like: tuple[Tensor, Tensor], name: str) -> None:
    """Checks what is to be written into, against new results."""
    _checks.check_matches("values", values, like[0].shape, like[0])
    if values.shape[-1] > 1 and values.stride(-1) != 1:
        raise ValueError(f"values: expected dense rows, got strides {list(values.stride())}")
    if name == "fp8_tensor":
        return
    _checks.check_matches("scales", scales, like[1].shape, like[1])
    if scales.numel() and scales.stride() != like[1].stride():
        raise ValueError(
            f"scales: expected strides {list(like[1].stride())}, got {list(scales.stride())}"
        )
