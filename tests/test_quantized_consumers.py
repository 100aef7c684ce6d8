"""Quantised results where they go: torch's products of eight bits, torchao, and other libraries'
layouts of scales, from their own descriptions."""

import pytest
import torch
from cases import every_finite, operands, random
from expert_row_cases import DESCRIPTORS, row_operands
from quantized_cases import PLAIN, Way, around, expected
from tolerances import QUANTIZED_ERROR, QUANTIZED_PRODUCT

import fused_acts
from fused_acts import reference
from fused_acts._reference_quantized import E2M1, E4M3

F8 = torch.float8_e4m3fn
GATE, UP, _ = operands(48, 256, dtype=torch.bfloat16)
UNIT = fused_acts.swiglu(GATE, UP).float()
DOWN = random(64, 256, dtype=torch.float32, seed=4)
# The scale of the tensor, where the format takes one.
GIVEN = {"fp8_tensor": UNIT.abs().max().item() / 448, "nvfp4": 2688 / UNIT.abs().max().item()}


def given(format):
    return {"scale": GIVEN[format]} if format in GIVEN else {}


def check_product(product, quantized, weight, format):
    """As near as sums in float32 are to the product of what both stand for."""
    right = reference.dequantized(quantized, format=format).double() @ weight.double().t()
    assert (product.double() - right).abs().max() <= QUANTIZED_PRODUCT * right.abs().max()


@pytest.mark.parametrize("format", ["fp8_tensor", "fp8_row"])
def test_a_product_of_fp8(format):
    """torch._scaled_mm, which takes the scales as they are."""
    ours = fused_acts.gated_quantized(GATE, UP, format=format, **given(format))
    largest = DOWN.abs().max() if format == "fp8_tensor" else DOWN.abs().amax(1, keepdim=True)
    scale = largest / 448
    weight = (DOWN / scale).to(F8)
    product = torch._scaled_mm(
        ours.values, weight.t(), scale_a=ours.scales, scale_b=scale.t(), out_dtype=torch.float32
    )
    check_product(product, ours, weight.float() * scale, format)


def test_a_product_of_int8():
    """torch._int_mm, whose sums are exact."""
    ours = fused_acts.gated_quantized(GATE, UP, format="int8_row")
    scale = DOWN.abs().amax(1, keepdim=True) / 127
    weight = (DOWN / scale).round().to(torch.int8)
    product = torch._int_mm(ours.values, weight.t()) * ours.scales * scale.t()
    check_product(product, ours, weight.float() * scale, "int8_row")


@pytest.mark.parametrize("way", PLAIN, ids=lambda way: way.format)
def test_what_is_lost(way):
    """Of the product with a matrix as it is."""
    ours = fused_acts.gated_quantized(GATE, UP, format=way.format, **given(way.format))
    back = reference.dequantized(ours, format=way.format, **given(way.format))
    right = UNIT.double() @ DOWN.double().t()
    lost = (back.double() @ DOWN.double().t() - right).norm() / right.norm()
    assert QUANTIZED_ERROR[way.format] / 2 <= lost <= QUANTIZED_ERROR[way.format]


@pytest.fixture(scope="module")
def torchao():
    """Its functions for these formats."""
    pytest.importorskip("torchao")
    from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize
    from torchao.prototype.mx_formats.utils import to_blocked

    class Functions:
        blocked = staticmethod(to_blocked)
        nvfp4 = staticmethod(nvfp4_quantize)

        @staticmethod
        def mxfp8(x):
            return to_mx(x, F8, 32, ScaleCalculationMode.RCEIL)

    return Functions


def differ(one, other):
    return one.view(torch.uint8) != other.view(torch.uint8)


def rows_of(numbers, columns):
    signs = torch.tensor([1.0, -1.0], dtype=numbers.dtype).repeat(columns // 2)
    return (numbers.unsqueeze(-1) * signs).contiguous()


def test_mxfp8_of_torchao(torchao):
    """That of the unit, bit for bit; its scales in the layout of the tensor cores."""
    for layout in ("row", "swizzled"):
        ours = fused_acts.gated_quantized(GATE, UP, format="mxfp8", scale_layout=layout)
        scales, values = torchao.mxfp8(UNIT.bfloat16())
        if layout == "swizzled":
            scales = torchao.blocked(scales).view(ours.scales.shape)
        assert not differ(ours.values, values).any() and not differ(ours.scales, scales).any()


def test_mxfp8_of_torchao_for_every_number(torchao):
    """Of 16 bits all scales are the same; with that of 2^-127 its values are not divided.

    torchao rounds log2(a / 448) in float32: in float32 what is next above 448 * 2^k may count as
    448 * 2^k, and its values saturate.
    """
    numbers = every_finite(torch.bfloat16)
    x = rows_of(numbers[numbers >= 0], 32)
    scales, values = torchao.mxfp8(x)
    ours = expected(x.float(), Way("mxfp8"))
    assert not differ(ours[1], scales).any()
    undivided = (ours[1].view(torch.uint8) == 0).expand_as(x)
    assert not differ(ours[0], values)[~undivided].any()
    assert torch.equal(values[undivided].float(), x[undivided].to(F8).float())

    powers = 448 * 2.0 ** torch.arange(-117.0, 119.0)
    near = around(powers)
    x = rows_of(near[near > 0], 32)
    scales, values = torchao.mxfp8(x)
    ours = expected(x, Way("mxfp8"))
    above = torch.nextafter(powers, torch.tensor(torch.inf))
    wrong = differ(ours[1], scales)[:, 0]
    assert 200 < wrong.sum() < len(powers) and torch.isin(x[wrong, 0], above).all()
    assert torch.equal(ours[1].view(torch.uint8)[wrong], scales.view(torch.uint8)[wrong] + 1)
    assert not differ(ours[0], values)[~wrong].any()
    assert (values[wrong].float().abs() == 448).all()


def test_nvfp4_of_torchao(torchao):
    """That of the unit, where no scale of a block is below 2^-6, which is the least in torchao."""
    scale = GIVEN["nvfp4"]
    ours = fused_acts.gated_quantized(GATE, UP, format="nvfp4", scale=scale)
    scales, values = torchao.nvfp4(UNIT.bfloat16(), per_tensor_scale=torch.tensor(1 / scale))
    small = ours.scales.float() < 2.0**-6
    assert not differ(ours.scales, scales)[~small].any() and (scales[small].float() == 2**-6).all()
    assert not differ(ours.values, values).unflatten(-1, (-1, 8))[~small].any()
    swizzled = fused_acts.gated_quantized(
        GATE, UP, format="nvfp4", scale=scale, scale_layout="swizzled"
    )
    blocked = torchao.blocked(ours.scales).view(swizzled.scales.shape)
    assert not differ(swizzled.scales, blocked).any()


def test_nvfp4_of_torchao_half_way(torchao):
    """It multiplies by a reciprocal: a value half way between two others may then be beside it."""
    d = torch.tensor(E4M3)[E4M3.index(2.0**-6) :]
    numbers = torch.tensor(E2M1)
    middles = (numbers[1:] + numbers[:-1]) / 2
    x = torch.zeros(len(d), 16)
    x[:, 0] = 6 * d
    x[:, 1 : 1 + len(middles)] = middles * d.unsqueeze(-1)
    scales, values = torchao.nvfp4(x, per_tensor_scale=torch.tensor(1.0))
    ours = expected(x, Way("nvfp4"), scale=1.0)
    assert torch.equal(scales.float()[:, 0], d) and not differ(ours[1], scales).any()
    codes = [torch.stack((v & 15, v >> 4), -1).flatten(-2)[:, 1:8] for v in (ours[0], values)]
    assert (codes[0] == torch.tensor([0, 2, 2, 4, 4, 6, 6])).all()
    off = x[:, 1:8] * (1 / d).unsqueeze(-1) != middles
    wrong = codes[0] != codes[1]
    assert wrong.any() and not wrong[~off].any()


def bytes_of(scales):
    """All of its memory, in order."""
    flat = scales.as_strided((scales.numel(),), (1,))
    return flat.view(torch.uint8)


def groups_of(format, cols):
    return -(-cols // {"fp8_block128": 128, "mxfp8": 32, "nvfp4": 16}.get(format, cols))


def swizzled(r, c, groups):
    """As cuBLAS and CUTLASS describe their tiles."""
    tile = (r >> 7) * -(-groups // 4) + (c >> 2)
    return tile * 512 + (r & 31) * 16 + ((r >> 5) & 3) * 4 + (c & 3)


@pytest.mark.parametrize(
    "way",
    [
        Way("fp8_row", "col"),
        Way("int8_row", "col"),
        Way("fp8_block128", "col"),
        Way("fp8_block128", "packed_ue8m0", "pow2"),
        Way("mxfp8", "packed_ue8m0"),
        Way("mxfp8", "swizzled"),
        Way("nvfp4", "swizzled"),
    ],
    ids=str,
)
def test_where_scales_are(way):
    """Element by element: DeepGEMM's two layouts with columns first, and tiles of 128 x 4."""
    rows, cols = 135, 1000
    gate, up, _ = operands(rows, cols, dtype=torch.bfloat16)
    gate, up = (t * torch.logspace(-2, 2, rows).unsqueeze(-1).bfloat16() for t in (gate, up))
    options = {"format": way.format, "scale_rounding": way.scale_rounding} | given(way.format)
    ours = fused_acts.gated_quantized(gate, up, scale_layout=way.scale_layout, **options)
    by_rows = fused_acts.gated_quantized(gate, up, **options)
    assert not differ(ours.values, by_rows.values).any()
    groups, aligned = groups_of(way.format, cols), -(-rows // 4) * 4
    there = bytes_of(ours.scales)
    taken = torch.zeros(len(there), dtype=torch.bool)
    for r in (*range(0, rows, 7), 127, 128, rows - 1):
        for j in range(groups):
            scale = by_rows.scales[r, j]
            if way.scale_layout == "col":
                place = 4 * (j * aligned + r)
                assert torch.equal(there[place : place + 4].view(torch.float32)[0], scale)
            elif way.scale_layout == "packed_ue8m0":
                place = j // 4 * aligned * 4 + 4 * r + j % 4
                assert there[place : place + 1].view(torch.float8_e8m0fnu).float() == scale.float()
            else:
                place = swizzled(r, j, groups)
                assert there[place] == scale.view(torch.uint8)
            assert not taken[place]
            taken[place] = True


def test_what_deepgemm_asserts():
    """All scales are powers of two or 0, those of padding rows too: no sign and no mantissa."""
    rows = DESCRIPTORS["counts"]
    inputs = row_operands("swiglu", rows, 300, torch.bfloat16)[:2]
    options = {"format": "fp8_block128", "scale_rounding": "pow2"} | rows.options
    for layout in ("row", "col"):
        _, scales = fused_acts.gated_quantized(*inputs, scale_layout=layout, **options)
        assert not (bytes_of(scales).view(torch.int32) & 0x807FFFFF).any()
    _, words = fused_acts.gated_quantized(*inputs, scale_layout="packed_ue8m0", **options)
    assert words.dtype == torch.int32 and words.shape == (5, 8, 1) and words.stride(1) == 1
