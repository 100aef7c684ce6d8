"""Any rank, any width, nothing at all, and a lot."""

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    KINDS,
    LAYOUTS,
    ROWS,
    UNARY,
    VARIANTS,
    as_inputs,
    exact,
    forward,
    forward_backward,
    gated,
    of_each_kind,
    operands,
    own_layout,
    rows_and_layouts,
    run,
    same_bits,
)
from tolerances import check_result

HIDDEN = (1408, 2730, 2816, 3420, 11008, 13653, 14336)  # of models
WIDTHS = (*range(1, 68), *HIDDEN)


def layouts_of(name):
    return LAYOUTS if name in VARIANTS else (UNARY,)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", of_each_kind())
def test_every_width(name, dtype, device):
    """Tails and vectors of every length: a column's result doesn't depend on the width."""
    gate, up, grad_out = operands(3, max(WIDTHS), dtype=dtype)
    full = forward_backward(name, gate, up, grad_out, device=device)
    check_result(name, full, exact(name, gate, up, grad_out))
    for width in WIDTHS:
        narrow = [tensor[:, :width].contiguous() for tensor in (gate, up, grad_out)]
        for layout in layouts_of(name):
            result = forward_backward(name, *narrow, layout, device)
            for one, other in zip(result.tensors(), full.tensors(), strict=True):
                assert same_bits(one, other[:, :width]), f"{layout} of width {width}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "shape", [(24,), (1,), (1, 24), (24, 1), (4, 6), (2, 3, 4), (1, 2, 1, 3, 4), (2,) * 3 + (3, 1)]
)
@pytest.mark.parametrize("name", of_each_kind())
def test_every_rank(name, shape, device):
    gate, up, grad_out = operands(24, dtype=torch.float32)
    flat = forward_backward(name, gate, up, grad_out, device=device)
    count = torch.Size(shape).numel()
    shaped = [tensor[:count].view(shape) for tensor in (gate, up, grad_out)]
    for layout in layouts_of(name):
        result = forward_backward(name, *shaped, layout, device)
        for one, other in zip(result.tensors(), flat.tensors(), strict=True):
            assert same_bits(one, other[:count].view(shape)), layout


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 8), (0, 14336), (8, 0), (2, 0, 4), (3, 2, 0)])
def test_empty(shape, dtype, device):
    gate, up, grad_out = operands(*shape, dtype=dtype)
    for name in ROWS:
        for layout in layouts_of(name) if name in KINDS else (own_layout(name),):
            result = forward_backward(name, gate, up, grad_out, layout, device)
            assert {(tensor.shape, tensor.dtype) for tensor in result.tensors()} == {(shape, dtype)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_one_long_row(name, layout, dtype):
    """The work is split within a row: a token alone gives what it gives among others."""
    gate, up, grad_out = operands(1, 2**17 + 1, dtype=dtype)
    row = forward_backward(name, gate, up, grad_out, layout)
    check_result(name, row, exact(name, gate, up, grad_out))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 3, 257])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", of_each_kind(VARIANTS))
def test_two_tensors_and_every_packing_agree(variant, dtype, rows, device):
    """So do the accesses that their strides and widths allow, one element or many at a time."""
    for cols in (130, 177):
        gate, up, grad_out = operands(rows, cols, dtype=dtype)
        expected = forward_backward(variant, gate, up, grad_out, device=device)
        for layout in LAYOUTS:
            result = forward_backward(variant, gate, up, grad_out, layout, device)
            assert all(map(same_bits, result, expected)), f"{layout} {cols}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 257])
@pytest.mark.parametrize("cols", HIDDEN)
@pytest.mark.parametrize("name", of_each_kind())
def test_every_row(name, cols, rows, device):
    """An element's result doesn't depend on where the rows end."""
    tensors = operands(rows, cols, dtype=torch.bfloat16)
    expected = forward_backward(name, *(tensor.flatten() for tensor in tensors), device=device)
    for layout in layouts_of(name):
        result = forward_backward(name, *tensors, layout, device)
        for one, other in zip(result.tensors(), expected.tensors(), strict=True):
            assert same_bits(one.flatten(), other), layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_halves_are_not_swapped(layout):
    """Two numbers whose exchange gives another result or other gradients, whatever the variant."""
    gate, up, grad_out = (torch.full((4, 9), number) for number in (2.0, 3.0, 1.0))
    for variant in VARIANTS:
        result = forward_backward(variant, gate, up, grad_out, layout)
        check_result(variant, result, exact(variant, gate, up, grad_out))
        with pytest.raises(AssertionError):
            check_result(variant, result, exact(variant, up, gate, grad_out))


@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_a_call_is_deterministic(name, layout):
    gate, up, grad_out = operands(129, 257, dtype=torch.bfloat16)
    inputs = as_inputs(gate, up, layout)
    first, second = (run(name, inputs, grad_out, layout) for _ in range(2))
    assert all(map(same_bits, first, second))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(KINDS))
def test_larger_than_the_caches(name, layout, dtype):
    """Big calls may be stored in another way; odd rows put them at every alignment."""
    rows, cols = 1031, 5557
    gate, up, grad_out = (tensor.repeat(rows, 1) for tensor in operands(1, cols, dtype=dtype))
    inputs = as_inputs(gate, up, layout)
    row = run(name, [tensor[:1] for tensor in inputs], grad_out[:1], layout)
    for result, expected in zip(run(name, inputs, grad_out, layout), row, strict=True):
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
