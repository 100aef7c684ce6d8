"""Quantised results against the oracle, bit for bit: units, formats, roundings, numbers."""

from itertools import product

import pytest
import torch
from cases import (
    ACTIVATIONS,
    CUDA,
    DEVICES,
    KINDS,
    ROWS,
    as_inputs,
    operands,
    random,
    rows_and_layouts,
)
from quantized_cases import (
    DTYPES,
    FORMATS,
    GROUPS,
    LAYOUTS,
    PLAIN,
    WAYS,
    Way,
    around,
    check,
    check_exact,
    expected,
    quantized,
    unit,
)

import fused_acts
from fused_acts import _reference_quantized as formulas

COLS = 301  # of three groups of 128, the last of them not whole
EXACT = "bilinear"
E4M3, E2M1 = (torch.tensor(numbers) for numbers in (formulas.E4M3, formulas.E2M1))
of_ways = pytest.mark.parametrize("way", WAYS, ids=str)
of_layouts = pytest.mark.parametrize("way", LAYOUTS, ids=str)
of_formats = pytest.mark.parametrize("way", PLAIN, ids=FORMATS)
of_devices = pytest.mark.parametrize("device", DEVICES)


@pytest.mark.parametrize("name", KINDS)
@of_ways
def test_ways(way, name):
    for dtype in DTYPES:
        gate, up, _ = operands(6, way.width(COLS), dtype=dtype)
        inputs = [gate] if name in ACTIVATIONS else [gate, up]
        check(quantized(name, inputs, way), expected(unit(name, inputs), way))


@pytest.mark.parametrize("name, layout", rows_and_layouts(KINDS))
@of_formats
def test_layouts_of_gate_and_up(way, name, layout):
    for dtype in (torch.float32, torch.bfloat16):
        inputs = list(as_inputs(*operands(3, way.width(COLS), dtype=dtype)[:2], layout))
        given = {} if layout in ("separate", "unary") else {"layout": layout}
        y = unit(name, inputs, **given)
        check(quantized(name, inputs, way, **given), expected(y, way))


@pytest.mark.parametrize(
    "name, device",
    [
        *((name, "cpu") for name in ROWS),
        *(pytest.param(n, *CUDA.values, marks=CUDA.marks) for n in KINDS),
    ],
)
def test_every_unit_in_every_format(name, device):
    gate, up, _ = operands(3, 160, dtype=torch.bfloat16)
    inputs = [gate] if name in ACTIVATIONS else [gate, up]
    y = unit(name, inputs, device)
    for way in PLAIN:
        check(quantized(name, inputs, way, device), expected(y, way))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ROWS)
def test_widths_that_are_no_two_vectors(name):
    """They have the kernels of calls with options, plain units too."""
    for dtype, cols in product((torch.bfloat16, torch.float32), (136, 131)):
        gate, up, _ = operands(3, cols, dtype=dtype)
        inputs = [gate] if name in ACTIVATIONS else [gate, up]
        y = unit(name, inputs, "cuda")
        for way in (Way("fp8_block128"), Way("fp8_row")):
            check(quantized(name, inputs, way, "cuda"), expected(y, way))


@of_devices
@of_layouts
def test_the_whole_path_of_an_exact_unit(way, device):
    """Rounded to the dtype of gate before the largest is taken, and not."""
    for dtype in DTYPES if device == "cpu" else DTYPES[2:]:
        inputs = list(operands(5, way.width(139), dtype=dtype)[:2])
        for rounding in ("storage", "single"):
            check_exact(EXACT, inputs, way, device, rounding=rounding)


def test_the_two_roundings_differ():
    """Where 16 bits lose what 8 bits need, or the largest magnitude."""
    inputs = list(operands(200, 128, dtype=torch.bfloat16)[:2])
    one, other = (
        quantized(EXACT, inputs, Way("fp8_row"), rounding=rounding)
        for rounding in ("storage", "single")
    )
    assert not torch.equal(one.scales, other.scales)
    assert not torch.equal(one.values.view(torch.uint8), other.values.view(torch.uint8))


def check_both_roundings(inputs, way, device="cpu"):
    """Rounded to the dtype of gate as the unit rounds, which may flush what is not normal."""
    check(quantized(EXACT, inputs, way, device), expected(unit(EXACT, inputs, device), way))
    check_exact(EXACT, inputs, way, device, rounding="single")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@of_ways
def test_every_magnitude_of_16_bits(way, dtype):
    """Each in a group of its own, with both signs, NaN and infinity too."""
    if way.scale_layout != "row":
        return  # the same numbers elsewhere
    numbers = torch.arange(2**15).to(torch.int16).view(dtype)
    signs = torch.tensor([1.0, -1.0], dtype=dtype).repeat(GROUPS.get(way.format, 8) // 2)
    gate = numbers.unsqueeze(-1) * signs
    check_both_roundings([gate, torch.ones_like(gate)], way)


@of_devices
@of_ways
def test_groups_of_any_size(way, device):
    """Values and largest magnitudes from below the subnormal numbers to beyond the largest."""
    for dtype in DTYPES if device == "cpu" else DTYPES[:1]:
        rows = 64 if device == "cpu" else 8
        gate = random(rows, 256, dtype=torch.float64, seed=1)
        sizes = torch.linspace(-150, 128, rows, dtype=torch.float64)
        gate = (gate * 2 ** sizes.unsqueeze(-1)).to(dtype)
        gate[::2, 32:64] *= 2.0**-20
        check_both_roundings([gate, torch.ones_like(gate)], way, device)


def midpoints(format):
    """What is half way between two numbers of the format, and beside it, in groups of scale 1."""
    if format == "int8_row":
        numbers, largest = torch.arange(128.0), 127.0
    else:
        numbers, largest = (E2M1, 6.0) if format == "nvfp4" else (E4M3, 448.0)
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = torch.cat((around(middles), numbers, -numbers))
    size = GROUPS.get(format, len(near) + 1) - 1
    near = torch.nn.functional.pad(near, (0, -len(near) % size)).view(-1, size)
    return torch.cat((torch.full((len(near), 1), largest), near), 1)


@of_devices
@of_formats
def test_half_way_between_two_numbers(way, device):
    gate = midpoints(way.format)
    gate = gate if way.format in GROUPS else gate.view(1, -1)
    scale = {"scale": 1.0} if "scale" in way.options else {}
    right = expected(gate, way, **scale)
    check(quantized(EXACT, [gate, torch.ones_like(gate)], way, device, **scale), right)


@of_devices
@of_ways
def test_scales_next_to_powers_of_two(way, device):
    """Of 2^-149 to the largest, what s is next to: a power is not rounded up, all above is."""
    powers = 2.0 ** torch.arange(-149.0, 128.0)
    factor = 127.0 if way.format == "int8_row" else 6.0 / 40 if way.format == "nvfp4" else 448.0
    numbers = torch.cat((around(powers), around(powers * factor)))
    gate = numbers.unsqueeze(-1).expand(-1, 2).contiguous()
    if device != "cpu":
        gate = gate[::7].contiguous()
    check_exact(EXACT, [gate, torch.ones_like(gate)], way, device)
    check_exact(EXACT, [gate, torch.ones_like(gate)], Way("mxfp8"), device)


@of_devices
def test_scales_half_way_between_two(device):
    """Of blocks of nvfp4, where the order of a product and a division can be told."""
    middles = ((E4M3[1:] + E4M3[:-1]) / 2)[8:]
    orders = 0
    for scale in (40.7, 977.3, 0.0123) if device == "cpu" else (977.3,):
        s = torch.tensor(scale)
        a = (6 * middles.double() / s.double()).float()
        a = around(torch.cat((a, around(a).abs()))).abs()
        orders += (formulas.e4m3(s * a / 6) != formulas.e4m3(a / 6 * s)).sum()
        gate = a.unsqueeze(-1).expand(-1, 2).contiguous()
        ours = quantized(EXACT, [gate, torch.ones_like(gate)], Way("nvfp4"), device, scale=scale)
        check(ours, expected(gate, Way("nvfp4"), scale=scale))
    assert orders > 0


SPECIAL = [torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-45, 3e38]


@of_devices
@of_ways
def test_special_values(way, device):
    """One among numbers, two of them, and groups of nothing else."""
    for dtype in DTYPES if device == "cpu" else DTYPES[2:]:
        gate = random(len(SPECIAL), 3, 128, dtype=dtype, seed=1)
        special = torch.tensor(SPECIAL, dtype=dtype)
        gate[:, 0, 17] = gate[:, 1, 100] = special
        gate[:, 1, 40] = special.flip(0)
        gate[:, 2] = special.unsqueeze(-1)
        check_exact(EXACT, [gate, torch.ones_like(gate)], way, device)


def test_what_nan_infinity_and_zero_become():
    """By hand, as the documentation has it."""

    def of(format, *numbers, **options):
        gate = torch.tensor([numbers])
        values, scales = quantized(EXACT, [gate, torch.ones_like(gate)], Way(format), **options)
        kind = torch.float32 if scales.dtype == torch.float32 else torch.uint8
        return values.view(torch.uint8).tolist()[0], scales.view(kind).tolist()[0]

    assert of("fp8_row", 0.0, -0.0) == ([0, 0x80], [1.0])
    assert of("int8_row", 0.0, -0.0) == ([0, 0], [1.0])
    assert of("mxfp8", 0.0, -0.0) == ([0, 0x80], [0])
    assert of("nvfp4", 0.0, -0.0) == ([0x80], [0])
    assert of("mxfp8", torch.inf, 1.0) == ([0x7E, 0], [0xFE])
    assert of("fp8_row", torch.inf, 1.0) == ([0x7F, 0], [torch.inf])
    assert of("nvfp4", torch.inf, -torch.inf) == ([0xF7], [0x7E])
    assert of("mxfp8", torch.nan, 1.0) == ([0x7F, 0x7F], [0xFF])
    assert of("nvfp4", torch.nan, 1.0) == ([0x77], [0x7F])
    values, (scale,) = of("int8_row", torch.nan, 1.0)
    assert values == [0, 0] and scale != scale


@of_ways
def test_the_least_largest_magnitude(way):
    gate = random(9, 64, dtype=torch.float32, seed=1) * torch.logspace(-9, 3, 9).unsqueeze(-1)
    gate[4] = 0.0
    gate[5, 3] = torch.nan
    for floor in (1e-4, 0.25, 3e38) if way.format != "fp8_tensor" else ():
        check_exact(EXACT, [gate, torch.ones_like(gate)], way, amax_floor=floor)


@pytest.mark.parametrize("kind", [float, torch.tensor, lambda s: torch.tensor([[s]])])
def test_scales_that_are_given(kind):
    inputs = list(operands(3, 64, dtype=torch.float32)[:2])
    for format, scale in (("fp8_tensor", 0.7), ("nvfp4", 123.0)):
        ours = fused_acts.gated_quantized(*inputs, format=format, scale=kind(scale))
        right = expected(unit("swiglu", inputs), Way(format), scale=scale)
        check(ours, (right[0], ours.scales if format == "fp8_tensor" else right[1]))
        if format == "fp8_tensor":
            assert ours.scales.item() == torch.tensor(scale).item()
