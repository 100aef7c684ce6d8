"""Any rank, any width, nothing at all, and a lot."""

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    LAYOUTS,
    VARIANTS,
    as_inputs,
    exact,
    forward,
    forward_backward,
    gated,
    operands,
    run,
    same_bits,
    variants_on,
)
from tolerances import check_result

HIDDEN = (1408, 2730, 2816, 3420, 11008, 13653, 14336)  # of models
WIDTHS = (*range(1, 68), *HIDDEN)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width(dtype, layout, device):
    """Tails and vectors of every length: a column's result doesn't depend on the width."""
    gate, up, grad_out = operands(3, max(WIDTHS), dtype=dtype)
    for variant in variants_on(device):
        full = forward_backward(variant, gate, up, grad_out, device=device)
        check_result(variant, full, exact(variant, gate, up, grad_out))
        for width in WIDTHS:
            narrow = (tensor[:, :width].contiguous() for tensor in (gate, up, grad_out))
            result = forward_backward(variant, *narrow, layout, device)
            for one, other in zip(result, full, strict=True):
                assert same_bits(one, other[:, :width]), f"{variant} of width {width}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(24,), (1,), (1, 24), (24, 1), (4, 6), (2, 3, 4), (1, 2, 1, 3, 4), (2,) * 3 + (3, 1)]
)
def test_every_rank(shape, layout, device):
    gate, up, grad_out = operands(24, dtype=torch.float32)
    for variant in variants_on(device):
        flat = forward_backward(variant, gate, up, grad_out, device=device)
        count = torch.Size(shape).numel()
        shaped = (tensor[:count].view(shape) for tensor in (gate, up, grad_out))
        result = forward_backward(variant, *shaped, layout, device)
        for one, other in zip(result, flat, strict=True):
            assert same_bits(one, other[:count].view(shape))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 8), (0, 14336), (8, 0), (2, 0, 4), (3, 2, 0)])
def test_empty(shape, dtype, layout, device):
    gate, up, grad_out = operands(*shape, dtype=dtype)
    for variant in VARIANTS:
        result = forward_backward(variant, gate, up, grad_out, layout, device)
        assert {(tensor.shape, tensor.dtype) for tensor in result} == {(shape, dtype)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_long_row(dtype, layout):
    """The work is split within a row: a token alone gives what it gives among others."""
    gate, up, grad_out = operands(1, 2**17 + 1, dtype=dtype)
    for variant in VARIANTS:
        row = forward_backward(variant, gate, up, grad_out, layout)
        check_result(variant, row, exact(variant, gate, up, grad_out))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 3, 257])
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_tensors_and_every_packing_agree(dtype, rows, device):
    """So do the accesses that their strides and widths allow, one element or many at a time."""
    for cols in (130, 177):
        gate, up, grad_out = operands(rows, cols, dtype=dtype)
        for variant in VARIANTS if rows == 257 else variants_on(device):
            expected = forward_backward(variant, gate, up, grad_out, device=device)
            for layout in LAYOUTS:
                result = forward_backward(variant, gate, up, grad_out, layout, device)
                assert all(map(same_bits, result, expected)), f"{variant} {layout} {cols}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 257])
@pytest.mark.parametrize("cols", HIDDEN)
def test_every_row(cols, rows, device):
    """An element's result doesn't depend on where the rows end."""
    tensors = operands(rows, cols, dtype=torch.bfloat16)
    flat = [tensor.flatten() for tensor in tensors]
    for variant in variants_on(device):
        expected = forward_backward(variant, *flat, device=device)
        for layout in LAYOUTS:
            result = forward_backward(variant, *tensors, layout, device)
            for one, other in zip(result, expected, strict=True):
                assert same_bits(one.flatten(), other), f"{variant} {layout}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_halves_are_not_swapped(layout):
    """Two numbers whose exchange gives another result or other gradients, whatever the variant."""
    gate, up, grad_out = (torch.full((4, 9), number) for number in (2.0, 3.0, 1.0))
    for variant in VARIANTS:
        result = forward_backward(variant, gate, up, grad_out, layout)
        check_result(variant, result, exact(variant, gate, up, grad_out))
        with pytest.raises(AssertionError):
            check_result(variant, result, exact(variant, up, gate, grad_out))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_call_is_deterministic(layout):
    gate, up, grad_out = operands(129, 257, dtype=torch.bfloat16)
    inputs = as_inputs(gate, up, layout)
    for variant in VARIANTS:
        first, second = (run(variant, inputs, grad_out, layout) for _ in range(2))
        assert all(map(same_bits, first, second))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_larger_than_the_caches(dtype, layout):
    """Big calls may be stored in another way; odd rows put them at every alignment."""
    rows, cols = 1031, 5557
    gate, up, grad_out = (tensor.repeat(rows, 1) for tensor in operands(1, cols, dtype=dtype))
    inputs = as_inputs(gate, up, layout)
    for variant in ("swiglu", "gtu"):  # with loops of its own, and of the others
        row = run(variant, [tensor[:1] for tensor in inputs], grad_out[:1], layout)
        for result, expected in zip(run(variant, inputs, grad_out, layout), row, strict=True):
            assert same_bits(result, expected.expand_as(result))


@pytest.mark.slow
def test_more_than_2_31_elements():
    """4 GB of output from one row, repeated; the last rows lie past 32-bit offsets."""
    gate, up, _ = operands(1, 2**15, dtype=torch.bfloat16)
    rows = 2**16 + 3
    out = gated("swiglu", (gate.expand(rows, -1), up.expand(rows, -1)))
    expected = forward("swiglu", gate, up)[0]
    for row in (0, 1, 2**15, 2**16 - 1, 2**16, rows - 1):
        assert same_bits(out[row], expected)
