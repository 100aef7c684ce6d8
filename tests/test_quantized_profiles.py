"""The table of docs/quantised.md: what gated_quantized gives in the place of other producers."""

from typing import Any

import pytest
import torch
from profile_cases import (
    CLOSE,
    E4M3,
    EXACT,
    NVFP4,
    POWERS,
    TENSOR_SCALE,
    Emulated,
    by_reciprocal,
    divided,
    e4m3,
    largest,
    mx,
    operands,
    power_above,
    power_below,
    single,
)
from torch import Tensor

import fused_acts
from fused_acts import reference

IMPLEMENTATIONS = [reference.gated_quantized, fused_acts.gated_quantized]


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.uint8)


def check_bits(result: Any, expected: Emulated) -> None:
    for own, other in zip(result, expected, strict=True):
        torch.testing.assert_close(bits(own), bits(other), rtol=0, atol=0)


@pytest.mark.parametrize("quantized", IMPLEMENTATIONS, ids=["reference", "fused"])
@pytest.mark.parametrize("name", EXACT)
def test_bit_for_bit(name, quantized):
    gate, up = operands()
    arguments, emulate = EXACT[name]
    result = quantized(gate, up, variant="bilinear", **arguments)
    check_bits(result, emulate(gate.float() * up.float(), gate * up))


def test_rounded_up_scales_are_the_same_by_a_reciprocal():
    """Of a/448 and of a * (1/448): beside powers of two, where alone they could differ."""
    mantissas = torch.arange(-(2**17), 2**17, dtype=torch.int32)
    a = (mantissas + (127 << 23)).view(torch.float32) * E4M3
    assert (a / E4M3 != by_reciprocal(a)).float().mean() > 0.1
    above = [(s.view(torch.int32) + 0x7FFFFF) >> 23 for s in (a / E4M3, by_reciprocal(a))]
    assert torch.equal(*above)


def steps(own: Tensor, other: Tensor) -> Tensor:
    """Between values of e4m3, in codes."""
    codes = [x.view(torch.uint8).int() for x in (own, other)]
    signed = [torch.where(code < 128, code, 128 - code) for code in codes]
    return (signed[0] - signed[1]).abs()


@pytest.mark.parametrize("quantized", IMPLEMENTATIONS, ids=["reference", "fused"])
@pytest.mark.parametrize("name", CLOSE)
def test_a_step_where_reciprocals_are_rounded(name, quantized):
    gate, up = operands()
    arguments, emulate = CLOSE[name]
    values, scales = quantized(gate, up, variant="bilinear", **arguments)
    other = emulate(gate.float() * up.float(), gate * up)
    assert (bits(scales) - bits(other.scales)).abs().max() <= 1
    apart = steps(values, other.values)
    assert apart.max() == 1 and apart.count_nonzero() < 1e-3 * apart.numel()


@pytest.mark.parametrize("quantized", IMPLEMENTATIONS, ids=["reference", "fused"])
@pytest.mark.parametrize("scale", [0.25, 7.0])
def test_a_tensor_scale_given(scale, quantized):
    """vLLM and TransformerEngine multiply by 1 / s: the same if s is a power of two."""
    gate, up = operands()
    gate[0, :8], up[0, :8] = 7, torch.arange(17, 33, 2)  # of 7 times midpoints of e4m3
    y = gate.float() * up.float()
    values, returned = quantized(
        gate, up, variant="bilinear", format="fp8_tensor", scale=single(scale), rounding="single"
    )
    apart = steps(values, e4m3(y * divided(1.0, single(scale))))
    assert apart.max() == (scale == 7) and apart.count_nonzero() < 1e-3 * apart.numel()
    assert returned.item() == scale


def test_vllm_scales_in_bfloat16():
    """persistent_masked_m_silu_mul_quant: 2^ceil(log2(s)) in bfloat16, which is too small a scale
    for some s just above a power of two; all else that it rounds is exact then."""
    every = torch.arange(2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    s = every[(every >= 1e-6) & (every <= 100)]
    rounded = s.log2().ceil().exp2()
    small = rounded.float() < power_above(s.float())
    assert small.sum() == 38 and not (rounded.float() > power_above(s.float())).any()
    assert (s / rounded)[small].max() == 1.0390625


@pytest.mark.parametrize("quantized", IMPLEMENTATIONS, ids=["reference", "fused"])
def test_vllm_masked(quantized):
    """The product in bfloat16 as it is, which leaky_relu of slope 1 leaves alone."""
    gate, up = operands()
    y = torch.nn.functional.silu(gate) * up
    values, scales = quantized(
        y, variant="leaky_relu", negative_slope=1.0, amax_floor=1e-10, **POWERS
    )
    grouped_y = y.unflatten(-1, (-1, 128))
    a = grouped_y.abs().amax(-1, keepdim=True).clamp(min=torch.tensor(1e-10).bfloat16())
    s = (a * torch.tensor(1 / E4M3).bfloat16()).log2().ceil().exp2()
    q = (grouped_y * s.reciprocal()).clamp(-E4M3, E4M3).to(torch.float8_e4m3fn)
    same = s.float().squeeze(-1) == scales
    assert same.float().mean() > 0.95
    assert torch.equal(bits(q)[same], bits(values.unflatten(-1, (-1, 128)))[same])


@pytest.mark.parametrize("quantized", IMPLEMENTATIONS, ids=["reference", "fused"])
@pytest.mark.parametrize("name", NVFP4)
def test_nvfp4(name, quantized):
    """Scales differ by a step at most, values where a scale does or beside midpoints; and where
    S*a/6 is below the normal numbers of e4m3, torchao has the smallest of these."""
    gate, up = operands()
    result = quantized(gate, up, variant="bilinear", format="nvfp4", scale=TENSOR_SCALE)
    other = NVFP4[name](gate * up)
    own = [bits(part) for part in result]
    theirs = [bits(part) for part in other]
    normal = own[1] >= 8
    apart = (own[1].int() - theirs[1].int()).abs()[normal]
    assert apart.max() <= 1 and apart.float().mean() < 0.01
    same = own[1] == theirs[1]
    assert same[normal].float().mean() > 0.99
    bytes_apart = (own[0] != theirs[0]).unflatten(-1, (-1, 8))[same & normal]
    assert bytes_apart.float().mean() < 0.01
    if name.startswith("torchao"):
        assert (theirs[1][~normal] == 8).all()
    else:
        assert (own[1].int() - theirs[1].int()).abs().max() <= 1


@pytest.mark.parametrize("quantized", IMPLEMENTATIONS, ids=["reference", "fused"])
def test_torchao_mx(quantized):
    """RCEIL is the same, but for an infinite magnitude; FLOOR, its default, has half the scale
    where the largest is above 448 / 256 = 1.75 times a power of two, and cuts it to 448."""
    gate, up = operands()
    own = quantized(gate, up, variant="bilinear", format="mxfp8")
    _, a = largest(gate * up, 32)
    ceiling = mx(lambda a: power_above(by_reciprocal(a)).clamp(min=2.0**-127))(gate * up)
    check_bits(own, ceiling)
    floor = (power_below(a) / 256).squeeze(-1)
    scales = own[1].float()
    some = (a > 0).squeeze(-1)
    ratio = (scales / floor)[some]
    above = (a.squeeze(-1) / power_below(a.squeeze(-1)) > 1.75)[some]
    assert torch.equal(ratio, torch.where(above, 2.0, 1.0)) and 0.05 < above.float().mean() < 0.95


@pytest.mark.parametrize("quantized", IMPLEMENTATIONS, ids=["reference", "fused"])
def test_infinity_and_nan(quantized):
    """An infinite magnitude is 2^127 in e8m0, as TransformerEngine has it (torchao: NaN). NaN wins
    over its group, as in torchao; kernels that take maxima by fmaxf leave it out of the scale."""
    y = torch.ones(2, 32, dtype=torch.bfloat16)
    y[0, 0], y[1, 0] = torch.inf, torch.nan
    values, scales = quantized(y, torch.ones_like(y), variant="bilinear", format="mxfp8")
    assert bits(scales).flatten().tolist() == [0xFE, 0xFF]
    assert values.float()[1].isnan().all()
    assert values.float()[0, 0] == E4M3 and not values.float()[0, 1:].any()
