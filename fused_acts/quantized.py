"""Results of eight and four bits with their scales, as the next matrix product takes them."""

from typing import Any, NamedTuple

from torch import Tensor

from fused_acts._call import ROW_INDEX, index_of, number
from fused_acts._formats import (
    FORMAT_INDEX,
    ROUNDINGS,
    SCALE_LAYOUT_INDEX,
    SCALE_ROUNDINGS,
    Quantization,
)
from fused_acts._layouts import LAYOUT_INDEX
from fused_acts._quantized_call import run
from fused_acts.functional import refuse_script


class Quantized(NamedTuple):
    """What `gated_quantized` returns."""

    values: Tensor
    scales: Tensor


def gated_quantized(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    variant: str = "swiglu",
    layout: str = "gate_up",
    format: str,
    scale: float | Tensor | None = None,
    scale_layout: str = "row",
    scale_rounding: str = "none",
    amax_floor: float = 0.0,
    rounding: str = "storage",
    out: tuple[Tensor, Tensor] | None = None,
    **options: Any,
) -> Quantized:
    """f(gate) * g(up) * weight in eight or four bits, with the scales of its groups, in one pass.

    With y the unit's value and a the largest magnitude in a group, but at least amax_floor:

    - fp8_tensor: e4m3 of y / s, with s given, for the whole tensor.
    - fp8_row: e4m3 of y / s, s = a / 448 of a row; int8_row: int8 of y / s, s = a / 127.
    - fp8_block128: e4m3 of y / s, s = a / 448 of 128 columns.
    - mxfp8: e4m3 of y / s, s = a / 448 of 32 columns, rounded up to a power of two, in e8m0 (OCP
      Microscaling Formats 1.0).
    - nvfp4: e2m1 of y * S / d, d = e4m3(S * a / 6) of 16 columns, with S given, for the whole
      tensor: 2688 / amax of it.

    So y is about values * s, for nvfp4 values * d / S. Divisions are true ones, and values are
    rounded to the nearest, to even where two are as near; what is too large is the largest value.
    Where a is 0, s is 1, in mxfp8 2^-127. A NaN in a group makes its scale and its values NaN, as
    far as the format has one: int8 then has 0, e2m1 6. Not differentiable.

    Args:
        gate: [..., cols], or without up the packed tensor x: [..., 2 * cols]. float32, float16 or
            bfloat16, on the CPU or a CUDA device. Any row stride is read in place.
        up: [..., cols], of the shape, dtype and device of gate.
        variant: one of `fused_acts.variants()`; or of `fused_acts.activations()`, of gate alone.
        layout: where a packed x holds gate and up: "gate_up", "up_gate" or "interleaved".
        format: "fp8_tensor", "fp8_row", "int8_row", "fp8_block128", "mxfp8" or "nvfp4".
        scale: s of fp8_tensor or S of nvfp4: a number, or a float32 tensor of one element on the
            device of gate, where no host reads it, so that it may be anything, also 0 and NaN, and
            the arithmetic says what comes of it. With other formats None.
        scale_layout: where scales are. With rows = all rows of gate, and groups of each:
            "row": [..., groups]. "col" (fp8_row, int8_row, fp8_block128): [rows, groups] with
            columns one behind the other, rows padded to a multiple of 4. "packed_ue8m0"
            (fp8_block128 with pow2, mxfp8): the same of int32, [rows, groups / 4], byte j of word i
            the exponent of group 4 * i + j. "swizzled" (mxfp8, nvfp4): rows padded to a multiple of
            128, groups to one of 4, in tiles of 128 x 4 as tensor cores read them. With counts
            there is such a matrix for each expert, in a dimension in front.
        scale_rounding: "none", or "pow2": s is rounded up to a power of two before the division.
            Those of mxfp8 are so anyway; not with fp8_tensor and nvfp4.
        amax_floor: the least a.
        rounding: "storage": y is rounded to the dtype of gate first, so that this is `gated`,
            quantised. "single": it is not.
        out: (values, scales) to write the result into: values with dense rows, any row stride;
            scales with the strides of a new result. With fp8_tensor scales is ignored.
        options: those that the variant has in `gated` or `activation`, such as gate_bias, limit,
            beta, weight, offs, counts, row_expert, block and padding; not inplace_backward or save.

    Returns:
        Quantized(values, scales). values: [..., cols] in torch.float8_e4m3fn or torch.int8, or of
        nvfp4 [..., cols / 2] in torch.uint8, the even column in the low half of a byte. scales: see
        scale_layout; float32, torch.float8_e8m0fnu (mxfp8) or torch.float8_e4m3fn (nvfp4), with
        fp8_tensor the scale that was given. All are written, also those of rows of padding and of
        what a layout is padded with: 1, or 0 in scales of 8 bits.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of gate,
            or the variant has no such option.
        ValueError: a shape or device does not match, a name is unknown, the format does not have
            this layout, rounding or scale, or needs one, cols is odd with nvfp4, amax_floor is
            negative or not finite, out has other strides or shares memory with an argument; and
            what `gated` raises it for.
        RuntimeError: an argument requires grad or has a tangent, or a transform of torch.func is
            active.
    """
    index = index_of("variant", variant, ROW_INDEX)
    chosen = Quantization(
        index_of("format", format, FORMAT_INDEX),
        index_of("scale_layout", scale_layout, SCALE_LAYOUT_INDEX),
        bool(index_of("scale_rounding", scale_rounding, SCALE_ROUNDINGS)),
        bool(index_of("rounding", rounding, ROUNDINGS)),
        number("amax_floor", amax_floor),
    )
    index_of("layout", layout, LAYOUT_INDEX)
    if up is not None and layout != "gate_up":
        raise ValueError(f"layout: expected gate_up with two tensors, got {layout!r}")
    for name in {"dim", "inplace_backward", "save"} & {*options}:
        raise TypeError(f"{name}: gated_quantized has no such option")
    return Quantized(*run(gate, up, index, layout, chosen, scale, out, options))


gated_quantized.__prepare_scriptable__ = refuse_script  # type: ignore[attr-defined]
