"""Quantised results of any shape, with options, of rows of experts, and written into tensors."""

import pytest
import torch
from cases import (
    ACTIVATIONS,
    DEVICES,
    KINDS,
    operands,
    pack,
    random,
    to_device,
)
from expert_row_cases import DESCRIPTORS, Rows, own_values, poisoned, row_operands
from option_cases import LIMITED, PARAMETRIC, biases, parameter
from quantized_cases import LAYOUTS, PLAIN, check, check_exact, expected, quantized, unit

import fused_acts

EXACT = "bilinear"
of_layouts = pytest.mark.parametrize("way", LAYOUTS, ids=str)
of_formats = pytest.mark.parametrize("way", PLAIN, ids=lambda way: way.format)
of_devices = pytest.mark.parametrize("device", DEVICES)
SHAPES = [(1,), (7,), (130,), (5, 1), (2, 3, 65), (129, 33), (2, 0, 3, 16), (0, 40), (3, 0), (0,)]


def even(shape, way):
    return (*shape[:-1], way.width(shape[-1]))


@of_devices
@of_layouts
def test_shapes(way, device):
    for shape in SHAPES if device == "cpu" else SHAPES[2:5]:
        check_exact(EXACT, list(operands(*even(shape, way), dtype=torch.bfloat16)[:2]), way, device)


@of_devices
@of_formats
def test_strides(way, device):
    """Rows apart, off any alignment, one for all, every second column."""
    x = random(9, 3, 150, dtype=torch.bfloat16, seed=1)
    for view in (
        x[..., 1:129],
        x[::2, 1, 3:75],
        x[:1, 0, :64].expand(5, -1),
        x[..., ::2][..., 2:70],
    ):
        check_exact(EXACT, [view, view], way, device)
        right = expected(unit(EXACT, [view]), way)
        check(quantized(EXACT, [view], way, device), right)


@of_devices
@of_formats
def test_blocks(way, device):
    gate, up, _ = operands(3, 96, dtype=torch.bfloat16)
    right = quantized("swiglu", [gate, up], way, device)
    for block in (2, 32):
        halves = [t.unflatten(-1, (-1, block)) for t in (gate, up)]
        x = torch.stack(halves, -2).flatten(-3)
        given = {"layout": "interleaved", "block": block}
        check(quantized("swiglu", [x], way, device, **given), right)


def options_of(name, dtype, cols):
    """Biases, what a variant learns, a limit, a weight for each row."""
    some = [biases(name, cols, dtype), {"weight": 1.7}]
    weight = random(6, dtype=torch.float32, seed=9)
    some.append(biases(name, cols, torch.float32) | {"weight": weight})
    if name in PARAMETRIC:
        some += [parameter(name, 1.3), parameter(name, torch.linspace(0.5, 1.5, cols).to(dtype))]
    if name in LIMITED:
        some.append({"limit": 0.75, **biases(name, cols, dtype)})
    return some


@of_devices
@pytest.mark.parametrize("name", [*KINDS, "bilinear", "swiglu_step", "situ_glu", "xielu"])
@of_formats
def test_options(way, name, device):
    if device != "cpu" and name not in KINDS[:1]:
        return
    for dtype in (torch.bfloat16, torch.float32):
        gate, up, _ = operands(6, 130, dtype=dtype)
        inputs = [gate] if name in ACTIVATIONS else [gate, up]
        for options in options_of(name, dtype, 130):
            y = unit(name, inputs, device, **options)
            check(quantized(name, inputs, way, device, **options), expected(y, way))
            if name == EXACT:
                check_exact(name, inputs, way, device, rounding="single", **options)


@of_devices
@of_formats
def test_a_packed_bias(way, device):
    gate, up, _ = operands(6, 66, dtype=torch.bfloat16)
    given = biases("swiglu", 66, torch.bfloat16)
    right = quantized("swiglu", [gate, up], way, device, **given)
    for layout in ("gate_up", "up_gate", "interleaved"):
        bias = pack(*given.values(), layout)
        ours = quantized("swiglu", [pack(gate, up, layout)], way, device, bias=bias, layout=layout)
        check(ours, right)


@of_devices
@pytest.mark.parametrize("descriptor", DESCRIPTORS)
@of_layouts
def test_rows_of_experts(way, descriptor, device):
    """All scales; values of padding too where they are written. Padding is NaN, and not read."""
    rows = DESCRIPTORS[descriptor]
    if device != "cpu" and descriptor not in ("offs", "counts"):
        return
    gate, up, _ = row_operands("swiglu", rows, 134, torch.bfloat16)
    weight = poisoned(random(*rows.shape, dtype=torch.float32, seed=9), rows)
    for options in ({}, own_values("swiglu", 134, torch.float32) | {"weight": weight}):
        options = options | rows.options
        y = unit("swiglu", [gate, up], device, padding="zero", **options)
        right = expected(y, way, rows)
        ours = quantized("swiglu", [gate, up], way, device, padding="zero", **options)
        check(ours, right)
        assert (ours.values.view(torch.uint8)[rows.owner < 0] == 0).all()
        skipped = quantized("swiglu", [gate, up], way, device, **options)
        check(skipped, right, rows.owner >= 0)


def test_scales_of_padding():
    """By hand: 1, or 0 in 8 bits, in rows of padding and beyond the last row and group."""
    gate = torch.full((6, 136), 2.0)
    owner = torch.tensor([0, -1, 0, 0, -1, 0], dtype=torch.int32)
    for way in LAYOUTS[1:]:
        _, scales = quantized(EXACT, [gate, gate], way, row_expert=owner)
        stored = scales
        if way.scale_layout == "packed_ue8m0":
            bytes_of_words = [(scales >> 8 * j & 0xFF).unsqueeze(-1) for j in range(4)]
            stored = torch.cat(bytes_of_words, -1).flatten(-2)
        elif scales.dtype != torch.float32:
            stored = scales.view(torch.uint8)
        padding = 1.0 if stored.dtype == torch.float32 else 0
        groups = -(-136 // {"fp8_block128": 128, "mxfp8": 32, "nvfp4": 16}.get(way.format, 136))
        if way.scale_layout == "swizzled":
            places = [
                [32 * 0 + r * 16 + g % 4 + g // 4 * 512 for g in range(groups)] for r in range(6)
            ]
            flat = stored.flatten()
            taken = torch.tensor(places)
            assert (flat[taken[owner < 0]] == padding).all() and (flat[taken[owner >= 0]] > 0).all()
            assert (flat > 0).sum() == 4 * groups
        else:
            there = stored[:6, :groups]
            assert (there[owner < 0] == padding).all() and (there[owner >= 0] != padding).all()
            assert (stored[6:] == padding).all() and (stored[:, groups:] == padding).all()


@of_devices
@of_layouts
def test_written_into_tensors(way, device):
    """Into rows that are apart, nothing between them; scales with the strides of a new result."""
    gate, up, _ = operands(5, 70, dtype=torch.bfloat16)
    right = quantized("swiglu", [gate, up], way, device)
    given = [to_device(t, device) for t in (gate, up)]
    width = right.values.shape[-1]
    memory = to_device(torch.full((5, width + 13), 77, dtype=torch.uint8), device)
    values = memory.view(right.values.dtype)[:, 3 : 3 + width]
    old = right.scales.clone()
    kind = torch.int32 if old.element_size() == 4 else torch.uint8
    old.view(kind).fill_(99)
    scales = to_device(old, device)
    versions = values._version, scales._version
    ours = fused_acts.gated_quantized(*given, **way.options, out=(values, scales))
    assert ours.values is values
    check((values.cpu(), right.scales), right)
    untouched = memory.cpu().index_fill(1, torch.arange(3, 3 + width), 77)
    assert (untouched == 77).all()
    assert values._version > versions[0]
    if way.format != "fp8_tensor":
        assert ours.scales is scales and scales._version > versions[1]
        assert torch.equal(scales.cpu().view(kind), right.scales.view(kind))


@of_devices
@of_layouts
def test_counts_that_change(way, device):
    """Into the same tensors again and again: no scale is that of a call before."""
    written = None
    for counts in ([8, 3, 0, 5, 1], [0, 0, 0, 0, 0], [1, 8, 8, 2, 0], [9, -1, 4, 7, 3]):
        rows = Rows.of("counts", counts, (5, 8))
        inputs = row_operands("swiglu", rows, 66, torch.bfloat16)[:2]
        y = unit("swiglu", inputs, device, padding="zero", **rows.options)
        right = expected(y, way, rows)
        given = [to_device(t, device) for t in inputs]
        there = {n: to_device(t, device) for n, t in rows.options.items()}
        out = {} if written is None else {"out": written}
        ours = fused_acts.gated_quantized(*given, **way.options, **there, **out)
        written = written or ours
        got = [t.cpu() for t in ours]
        if way.format == "fp8_tensor":
            got[1] = right[1]
        check(got, right, rows.owner >= 0)


@pytest.mark.parametrize("count", [1, 2])
@of_layouts
def test_threads(way, threads, count):
    """Rows longer than one thread takes, and more rows than that."""
    threads(count)
    for shape in ((3, 70_000), (700, 264)):
        gate = random(*shape, dtype=torch.bfloat16, seed=1)
        check_exact(EXACT, [gate, gate], way)
