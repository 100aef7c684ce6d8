"""Operands with any strides and offsets give the bits of contiguous ones.

What lies around an operand is NaN, so an access outside it shows in the result.
"""

import math

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    KINDS,
    LAYOUTS,
    UNARY,
    VARIANTS,
    as_inputs,
    gated,
    operands,
    own_layout,
    random,
    rows_and_layouts,
    run,
    same_bits,
)
from cases import ROWS as EVERY_ROW
from derivative_cases import of
from option_cases import biases, call
from torch.profiler import ProfilerActivity

ROWS, COLS = 6, 68


def offset_by(elements):
    def view(tensor):
        buffer = tensor.new_full((tensor.numel() + 16,), math.nan)
        return buffer[elements : elements + tensor.numel()].view_as(tensor)

    return view


def row_stride(extra, first=0):
    def view(tensor):
        buffer = tensor.new_full((*tensor.shape[:-1], tensor.shape[-1] + extra), math.nan)
        return buffer[..., first : first + tensor.shape[-1]]

    return view


def every_other_row(tensor):
    return tensor.new_full((2 * tensor.shape[0], *tensor.shape[1:]), math.nan)[1::2]


def rows_from_two_dimensions(tensor):
    """[rows, cols] as [2, rows / 2, cols] with leading dimensions that don't collapse into one."""
    shape = (tensor.shape[0] // 2, 2, tensor.shape[1] + 4)
    return tensor.new_full(shape, math.nan).transpose(0, 1)[..., : tensor.shape[1]]


def every_other_column(tensor):
    return tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), math.nan)[..., ::2]


def columns_first(tensor):
    return tensor.new_full(tuple(reversed(tensor.shape)), math.nan).permute(
        *reversed(range(tensor.dim()))
    )


READ_IN_PLACE = {
    **{f"offset by {elements}": offset_by(elements) for elements in (1, 2, 3, 5, 8)},
    **{f"rows {extra} further": row_stride(extra) for extra in (1, 2, 3, 4, 7, 8, 16, COLS, 136)},
    **{f"columns from {first}": row_stride(32, first) for first in (1, 2, 3, 4, 5, 8)},
    "every other row": every_other_row,
}
COPIED = {
    "two row strides": rows_from_two_dimensions,
    "every other column": every_other_column,
    "columns first": columns_first,
}


def views_of(tensors, view):
    """The same values in views, all of them strided, and each in turn with the others dense."""
    strided = []
    for tensor in tensors:
        empty = view(tensor)
        strided.append(empty.copy_(tensor.reshape(empty.shape)))
    dense = [tensor.reshape(one.shape) for tensor, one in zip(tensors, strided, strict=True)]
    yield strided
    for i in range(len(tensors)):
        yield [*dense[:i], strided[i], *dense[i + 1 :]]


def check_views(name, layout, dtype, view, device="cpu", options=None):
    gate, up, grad_out = operands(ROWS, COLS, dtype=dtype)
    inputs = as_inputs(gate, up, layout)
    expected = results_of(name, inputs, grad_out, layout, device, options)
    for *strided, strided_grad in views_of((*inputs, grad_out), view):
        results = results_of(name, strided, strided_grad, layout, device, options)
        for result, tensor in zip(results, expected, strict=True):
            assert same_bits(result.reshape(tensor.shape), tensor)


def results_of(name, inputs, grad_out, layout, device, options):
    if options is None:
        return run(name, inputs, grad_out, layout, device)
    return call(of(name, layout=layout)[0], inputs, options, grad_out, device).tensors()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("view", READ_IN_PLACE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(KINDS))
def test_read_in_place(name, layout, dtype, view, device):
    check_views(name, layout, dtype, READ_IN_PLACE[view], device)


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.parametrize("view", READ_IN_PLACE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY_ROW)
def test_read_in_place_by_every_row(name, dtype, view):
    for layout in LAYOUTS if name in VARIANTS else (UNARY,):
        check_views(name, layout, dtype, READ_IN_PLACE[view])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("view", READ_IN_PLACE | COPIED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_read_in_place_with_a_bias(dtype, view, device):
    make = (READ_IN_PLACE | COPIED)[view]
    for name in ("swish", "gtu"):
        options = biases(name, COLS, dtype)
        check_views(name, own_layout(name), dtype, make, device, options)


@pytest.mark.parametrize("view", COPIED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(KINDS))
def test_made_contiguous(name, layout, dtype, view):
    check_views(name, layout, dtype, COPIED[view])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stride", [0, 1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(KINDS))
def test_rows_that_share_memory(name, layout, dtype, stride, device):
    """One row for all (stride 0), and windows sliding over one buffer."""
    widths = {"separate": (COLS, COLS), UNARY: (COLS,)}.get(layout, (2 * COLS,))
    *inputs, grad_out = (
        random(cols + stride * ROWS, dtype=dtype, seed=cols + i).as_strided(
            (ROWS, cols), (stride, 1)
        )
        for i, cols in enumerate((*widths, COLS))
    )
    dense = [tensor.contiguous() for tensor in inputs]
    expected = run(name, dense, grad_out.contiguous(), layout, device)
    for some in ((inputs, grad_out), (dense, grad_out), (inputs, grad_out.contiguous())):
        assert all(map(same_bits, run(name, *some, layout, device), expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(KINDS))
def test_gradient_of_a_sum(name, layout, dtype):
    """Its grad_out is one number, expanded over all dimensions."""
    gate, up, _ = operands(ROWS, COLS, dtype=dtype)
    inputs = as_inputs(gate, up, layout)
    one = torch.ones((), dtype=dtype)
    expected = run(name, inputs, one.expand(ROWS, COLS).contiguous(), layout)
    assert all(map(same_bits, run(name, inputs, one.expand(ROWS, COLS), layout), expected))
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    gated(name, leaves, layout).sum().backward()
    assert all(map(same_bits, [leaf.grad for leaf in leaves], expected[1:]))


def copies_made(view, layout):
    gate, up, grad_out = operands(ROWS, COLS, dtype=torch.bfloat16)
    *inputs, grad_out = next(views_of((*as_inputs(gate, up, layout), grad_out), view))
    leaves = [tensor.requires_grad_() for tensor in inputs]
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile:
        torch.autograd.grad(gated("swiglu", leaves, layout), leaves, grad_out)
    return [event.name for event in profile.events()].count("aten::copy_")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_only_what_it_must(layout):
    for name, view in READ_IN_PLACE.items():
        assert copies_made(view, layout) == 0, name
    assert copies_made(every_other_column, layout) > 0  # copies do show in this way


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_more_than_2_31_elements_apart(layout):
    """The buffers are 8 GB of address space, of which only the rows are ever touched."""
    gate, up, grad_out = operands(3, COLS, dtype=torch.bfloat16)
    tensors = (*as_inputs(gate, up, layout), grad_out)
    *inputs, far_grad = (
        torch.empty(2**32 + 999, dtype=torch.bfloat16)
        .as_strided(tensor.shape, (2**31 + 7, 1), 5)
        .copy_(tensor)
        for tensor in tensors
    )
    expected = run("swiglu", tensors[:-1], grad_out, layout)
    out = gated("swiglu", [tensor.requires_grad_() for tensor in inputs], layout)
    results = (out.detach(), *torch.autograd.grad(out, inputs, far_grad))
    assert all(map(same_bits, results, expected))
