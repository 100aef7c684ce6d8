"""Ways to quantise, and what the oracle makes of the library's own unit, or of its own."""

from typing import Any, NamedTuple

import torch
from cases import ACTIVATIONS, to_device
from expert_row_cases import Rows
from torch import Tensor

import fused_acts
from fused_acts import _reference_quantized, reference

FORMATS = ("fp8_tensor", "fp8_row", "int8_row", "fp8_block128", "mxfp8", "nvfp4")
GROUPS = {"fp8_block128": 128, "mxfp8": 32, "nvfp4": 16}
SCALES = {"fp8_tensor": 0.03, "nvfp4": 40.0}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Way(NamedTuple):
    format: str
    scale_layout: str = "row"
    scale_rounding: str = "none"

    @property
    def options(self) -> dict[str, Any]:
        scale = {"scale": SCALES[self.format]} if self.format in SCALES else {}
        return {**self._asdict(), **scale}

    def width(self, cols: int) -> int:
        """Of a result of so many columns; of e2m1 an even number."""
        return cols + cols % 2 if self.format == "nvfp4" else cols

    def __str__(self) -> str:
        return "-".join(self)


WAYS = [
    Way("fp8_tensor"),
    *(
        Way(format, layout, rounding)
        for format in ("fp8_row", "int8_row", "fp8_block128")
        for layout in ("row", "col")
        for rounding in ("none", "pow2")
    ),
    Way("fp8_block128", "packed_ue8m0", "pow2"),
    Way("mxfp8", "row", "pow2"),
    *(Way("mxfp8", layout) for layout in ("row", "packed_ue8m0", "swizzled")),
    *(Way("nvfp4", layout) for layout in ("row", "swizzled")),
]
PLAIN = [Way(format) for format in FORMATS]
# A format in each layout, with scales as they are where they may be.
LAYOUTS = [way for way in WAYS if way.scale_rounding == "none" or way.format == "fp8_block128"]


def on(device: str, value: Any) -> Any:
    return to_device(value, device) if isinstance(value, Tensor) else value


def quantized(
    name: str, inputs: list[Tensor], way: Way, device: str = "cpu", **options: Any
) -> fused_acts.Quantized:
    """What the library makes of it on the device, on the CPU and with the strides it had there."""
    given = [to_device(tensor, device) for tensor in inputs]
    there = {n: on(device, v) for n, v in (way.options | options).items()}
    if "scale" in there:
        there["scale"] = to_device(torch.tensor(there["scale"]), device)
    result = fused_acts.gated_quantized(*given, variant=name, **there)
    return fused_acts.Quantized(*(from_device(tensor) for tensor in result))


def from_device(tensor: Tensor) -> Tensor:
    """On the CPU, with its strides."""
    if tensor.device.type == "cpu":
        return tensor
    return to_device(tensor, "cpu").as_strided(tensor.size(), tensor.stride())


def unit(name: str, inputs: list[Tensor], device: str = "cpu", **options: Any) -> Tensor:
    """The library's own, of which quantised results are made."""
    given = [to_device(tensor, device) for tensor in inputs]
    there = {n: on(device, v) for n, v in options.items()}
    if name in ACTIVATIONS:
        return fused_acts.activation(*given, name, **there).cpu()
    return fused_acts.gated(*given, variant=name, **there).cpu()


def expected(y: Tensor, way: Way, rows: Rows | None = None, **options: Any) -> Any:
    """What the oracle makes of y."""
    counts = None if rows is None else rows.options.get("counts")
    chosen = {"scale": None, "amax_floor": 0.0} | way.options | options
    if chosen["scale"] is not None:
        chosen["scale"] = torch.as_tensor(chosen["scale"])
    live = None if rows is None else rows.owner >= 0
    if live is not None:
        y = torch.where(live.unsqueeze(-1), y, 0.0)
    matrices = None if counts is None else len(counts)
    return _reference_quantized.quantize(y.float(), live, matrices, **chosen)


def check(ours: Any, right: Any, live: Tensor | None = None) -> None:
    """Bit for bit, with scales of the same strides; values of live rows alone, where that is given.

    NaN in float32 may be any.
    """
    values, scales = ours
    assert values.dtype == right[0].dtype and values.shape == right[0].shape
    assert values.stride(-1) == 1 or values.shape[-1] <= 1
    one, other = values.view(torch.uint8), right[0].view(torch.uint8)
    assert torch.equal(one if live is None else one[live], other if live is None else other[live])
    assert scales.dtype == right[1].dtype and scales.shape == right[1].shape
    assert scales.numel() == 0 or scales.stride() == right[1].stride()
    if scales.dtype == torch.float32:
        assert torch.equal(scales.nan_to_num(-1.0), right[1].nan_to_num(-1.0))
    else:
        integer = torch.int32 if scales.dtype == torch.int32 else torch.uint8
        assert torch.equal(scales.view(integer), right[1].view(integer))


def check_exact(name: str, inputs: list[Tensor], way: Way, device: str = "cpu", **options: Any):
    """Against the oracle alone: of a unit without roundings of its own."""
    right = reference.gated_quantized(*inputs, variant=name, **way.options, **options)
    check(quantized(name, inputs, way, device, **options), right)


def around(numbers: Tensor) -> Tensor:
    """The numbers, what is next to each, and all that with the other sign."""
    up, down = (torch.nextafter(numbers, torch.tensor(end)) for end in (torch.inf, -torch.inf))
    near = torch.cat((numbers, up, down))
    return torch.cat((near, -near))
