"""The oracle of eight and four bits: values to their codes and scales, and back.

Numbers of a format are looked up in the list of all that it has, so nothing is known here of how
bits are rounded.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

E4M3 = [m * 2.0**-9 for m in range(8)]
E4M3 += [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)][:-1]
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
POWERS = [2.0**e for e in range(-149, 128)]
LARGEST = {"fp8_row": 448.0, "int8_row": 127.0, "fp8_block128": 448.0, "mxfp8": 448.0}
GROUPS = {"fp8_block128": 128, "mxfp8": 32, "nvfp4": 16}  # others: the columns of a row
NAN_E4M3, NAN_E8M0, NAN_E2M1 = 0x7F, 0xFF, 7


def _nearest(x: Tensor, magnitudes: Sequence[float]) -> Tensor:
    """The index of the magnitude that is nearest to that of x, the even one of two as near."""
    all_of_them = torch.tensor(magnitudes, dtype=torch.float32)
    middles = (all_of_them[1:] + all_of_them[:-1]) / 2
    beyond = torch.nextafter(middles, torch.tensor(torch.inf))
    odd = torch.arange(len(middles)) % 2 == 1
    return torch.bucketize(x.abs().contiguous(), torch.where(odd, middles, beyond), right=True)


def _floating(x: Tensor, magnitudes: Sequence[float], nan: int) -> Tensor:
    """Codes of a sign and an index into the magnitudes."""
    sign_bit = 128 if nan == NAN_E4M3 else 8
    codes = _nearest(x, magnitudes) + sign_bit * x.signbit()
    return torch.where(x.isnan(), nan, codes).to(torch.uint8)


def e4m3(x: Tensor) -> Tensor:
    return _floating(x, E4M3, NAN_E4M3)


def from_e4m3(codes: Tensor) -> Tensor:
    numbers = torch.tensor([*E4M3, torch.nan])
    return torch.cat((numbers, -numbers))[codes.long()]


def e2m1(x: Tensor) -> Tensor:
    return _floating(x, E2M1, NAN_E2M1)


def from_e2m1(codes: Tensor) -> Tensor:
    numbers = torch.tensor(E2M1)
    return torch.cat((numbers, -numbers))[codes.long()]


def int8(x: Tensor) -> Tensor:
    return x.nan_to_num(0.0, torch.inf, -torch.inf).round().clamp(-127, 127).to(torch.int8)


def power_above(x: Tensor) -> Tensor:
    """The least power of two that is not below x, for x above 0; infinity and NaN stay."""
    powers = torch.tensor([*POWERS, torch.inf])
    return torch.where(x.isnan(), x, powers[torch.bucketize(x, powers).clamp(max=len(POWERS))])


def e8m0(x: Tensor) -> Tensor:
    """The exponent of the power of two above, of those from 2^-127 to 2^127."""
    powers = torch.tensor(POWERS[22:])
    codes = torch.bucketize(x, powers).clamp(max=254)
    return torch.where(x.isnan(), NAN_E8M0, codes).to(torch.uint8)


def from_e8m0(codes: Tensor) -> Tensor:
    return torch.tensor([*POWERS[22:], torch.nan])[codes.long()]


def _grouped(y: Tensor, format: str) -> Tensor:
    """[..., cols] -> [..., groups, columns of a group], with 0 behind the last column."""
    cols = y.shape[-1]
    size = GROUPS.get(format, max(cols, 1))
    count = -(-cols // size) if format in GROUPS else 1
    return torch.unflatten(F.pad(y, (0, count * size - cols)), -1, (count, size))


def quantize(
    y: Tensor,
    live: Tensor | None,
    matrices: int | None,
    *,
    format: str,
    scale: Tensor | None,
    scale_layout: str,
    scale_rounding: str,
    amax_floor: float,
) -> tuple[Tensor, Tensor]:
    """(values, scales) of a float32 y: [..., cols], whose rows that are not live are padding.

    matrices: how many there are, each with scales of its own; None: one, and the scales have no
    dimension for it.
    """
    groups = _grouped(y, format)
    a = groups.abs().amax(-1)
    a = torch.where(a < amax_floor, amax_floor, a)  # NaN stays
    stored: Any = None  # a code or a float for each group
    if format == "fp8_tensor":
        assert scale is not None
        scaled = groups / scale
    elif format == "nvfp4":
        assert scale is not None
        stored = e4m3(scale * a / torch.full_like(a, 6.0))
        d = from_e4m3(stored).unsqueeze(-1)
        scaled = torch.where(d == 0, groups * 0.0, groups * scale / d)
    else:
        s = a / torch.full_like(a, LARGEST[format])
        if format != "mxfp8":
            s = torch.where(s == 0, 1.0, s)
            s = power_above(s) if scale_rounding == "pow2" else s
        stored = s
        if format == "mxfp8" or scale_layout == "packed_ue8m0":
            stored = e8m0(s)
            s = from_e8m0(stored)
        scaled = groups / s.unsqueeze(-1)
    scaled = scaled.flatten(-2)[..., : y.shape[-1]]
    if live is not None:
        scaled = torch.where(live.unsqueeze(-1), scaled, 0.0)
        none = 1.0 if stored is not None and stored.dtype == torch.float32 else 0
        stored = None if stored is None else torch.where(live.unsqueeze(-1), stored, none)
    if format == "nvfp4":
        even, odd = e2m1(scaled).unflatten(-1, (-1, 2)).unbind(-1)
        values = even | odd << 4
    else:
        values = int8(scaled) if format == "int8_row" else e4m3(scaled).view(torch.float8_e4m3fn)
    if scale is not None and stored is None:
        return values, scale
    return values, _typed(laid_out(stored, matrices, scale_layout), format)


def _typed(scales: Tensor, format: str) -> Tensor:
    if scales.dtype != torch.uint8:
        return scales
    return scales.view(torch.float8_e4m3fn if format == "nvfp4" else torch.float8_e8m0fnu)


def laid_out(stored: Tensor, matrices: int | None, scale_layout: str) -> Tensor:
    """[..., groups], one for each, where a layout has it."""
    if scale_layout == "row":
        return stored.contiguous()
    groups = stored.shape[-1]
    count = 1 if matrices is None else matrices
    rows = stored.shape[:-1].numel() // max(count, 1)
    to_rows, to_groups = {"col": (4, 1), "packed_ue8m0": (4, 4), "swizzled": (128, 4)}[scale_layout]
    padding = 1.0 if stored.dtype == torch.float32 else 0
    whole = stored.new_full((count, _up(rows, to_rows), _up(groups, to_groups)), padding)
    whole[:, :rows, :groups] = stored.reshape(count, rows, groups)
    if scale_layout == "swizzled":
        # Of 128 rows the 4 that are 32 apart are neighbours, with 4 groups each.
        tiles = whole.reshape(count, whole.shape[1] // 128, 4, 32, whole.shape[2] // 4, 4)
        whole = tiles.permute(0, 1, 4, 3, 2, 5).reshape(whole.shape)
    elif scale_layout == "packed_ue8m0":
        bytes_of_words = whole.long().unflatten(-1, (-1, 4)) << torch.tensor([0, 8, 16, 24])
        whole = bytes_of_words.sum(-1).to(torch.int32)
    if scale_layout != "swizzled":
        whole = whole.mT.clone(memory_format=torch.contiguous_format).mT
    return whole[0] if matrices is None else whole


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _by_rows(scales: Tensor, lead: torch.Size, groups: int, scale_layout: str) -> Tensor:
    """[..., groups] of the codes or floats where a layout has them."""
    if scale_layout == "row":
        return scales
    whole = scales if scales.dim() == 3 else scales.unsqueeze(0)
    if scale_layout == "packed_ue8m0":
        whole = (whole.unsqueeze(-1) >> torch.tensor([0, 8, 16, 24])).flatten(-2) & 0xFF
    elif scale_layout == "swizzled":
        _, padded_rows, padded_groups = whole.shape
        tiles = whole.reshape(len(whole), padded_rows // 128, padded_groups // 4, 32, 4, 4)
        whole = tiles.permute(0, 1, 4, 3, 2, 5).reshape(whole.shape)
    rows = lead.numel() // max(len(whole), 1)
    return whole[:, :rows, :groups].reshape(*lead, groups)


def dequantized(
    quantized: tuple[Tensor, Tensor],
    *,
    format: str,
    scale: Tensor | float | None = None,
    scale_layout: str = "row",
) -> Tensor:
    """What values and their scales stand for: [..., cols] in float32.

    quantized: as `fused_acts.gated_quantized` returns it, and the other arguments as it was given
    them. Scales of several matrices are told by their dimension.
    """
    values, scales = (tensor.cpu() for tensor in quantized)
    if format == "nvfp4":
        numbers = from_e2m1(torch.stack((values & 15, values >> 4), -1).flatten(-2))
    elif format == "int8_row":
        numbers = values.float()
    else:
        numbers = from_e4m3(values.view(torch.uint8))
    if format == "fp8_tensor":
        return numbers * (scales if scale is None else scale)
    groups = _grouped(numbers, format)
    if scales.dtype in (torch.float8_e4m3fn, torch.float8_e8m0fnu):
        scales = scales.view(torch.uint8)
    stored = _by_rows(scales, values.shape[:-1], groups.shape[-2], scale_layout)
    if format == "nvfp4":
        assert scale is not None
        result = groups * from_e4m3(stored).unsqueeze(-1) / scale
    else:
        s = stored if stored.dtype == torch.float32 else from_e8m0(stored)
        result = groups * s.unsqueeze(-1)
    return result.flatten(-2)[..., : numbers.shape[-1]]
