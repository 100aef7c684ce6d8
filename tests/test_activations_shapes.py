"""Activations alone: any rank, width and strides, out=, and any number of threads."""

import math
import re

import pytest
import torch
from activation_cases import ACTIVATIONS, activations_on, fused, parameter
from cases import DEVICES, DTYPES, operands, random, same_bits, to_device
from test_out import COLS, ROWS, SENTINEL, out_views, storage_of
from test_shapes import WIDTHS
from test_threads import SHAPES
from test_views import COPIED, READ_IN_PLACE, views_of

import fused_acts


def results(name, x, grad_out, device="cpu", options=None):
    called = fused(name, x, options, grad_out, device)
    return [called.out, *called.inputs]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width(dtype, device):
    """Tails and vectors of every length: a column's result doesn't depend on the width."""
    x, bias, grad_out = operands(3, max(WIDTHS), dtype=dtype)
    for name in activations_on(device):
        for options in ({}, {"bias": bias[0]}):
            full = results(name, x, grad_out, device, options)
            for width in WIDTHS if name == "swish" else WIDTHS[::12]:
                narrow = [tensor[:, :width].contiguous() for tensor in (x, grad_out)]
                rows = {option: row[:width] for option, row in options.items()}
                for one, other in zip(results(name, *narrow, device, rows), full, strict=True):
                    assert same_bits(one, other[:, :width]), f"{name} of width {width}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(24,), (1,), (24, 1), (1, 24), (2, 3, 4), (1, 2, 1, 3, 4)])
def test_every_rank(shape, device):
    x, _, grad_out = operands(24, dtype=torch.float32)
    for name in activations_on(device):
        flat = results(name, x, grad_out, device)
        count = math.prod(shape)
        shaped = (tensor[:count].view(shape) for tensor in (x, grad_out))
        for one, other in zip(results(name, *shaped, device), flat, strict=True):
            assert same_bits(one, other[:count].view(shape))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 8), (8, 0), (2, 0, 4), (3, 2, 0)])
def test_empty(shape, dtype, device):
    x, _, grad_out = operands(*shape, dtype=dtype)
    for name in ACTIVATIONS:
        for result in results(name, x, grad_out, device):
            assert (result.shape, result.dtype) == (shape, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("view", READ_IN_PLACE | COPIED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_offsets(dtype, view, device):
    """Operands with any strides and offsets give the bits of contiguous ones.

    What lies around an operand is NaN, so an access outside it shows in the result.
    """
    x, _, grad_out = operands(ROWS, 68, dtype=dtype)
    bias = random(68, dtype=dtype, seed=7)
    make = (READ_IN_PLACE | COPIED)[view]
    for name in activations_on(device):
        for options in ({}, {"bias": bias}):
            expected = results(name, x, grad_out, device, options)
            for strided in views_of((x, grad_out), make):
                for result, tensor in zip(
                    results(name, *strided, device, options), expected, strict=True
                ):
                    assert same_bits(result.reshape(tensor.shape), tensor)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stride", [0, 1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_share_memory(dtype, stride, device):
    """One row for all (stride 0), and windows sliding over one buffer."""
    x, grad_out = (
        random(68 + stride * ROWS, dtype=dtype, seed=i).as_strided((ROWS, 68), (stride, 1))
        for i in range(2)
    )
    for name in activations_on(device):
        expected = results(name, x.contiguous(), grad_out.contiguous(), device)
        assert all(map(same_bits, results(name, x, grad_out, device), expected))


@pytest.mark.parametrize("shape", SHAPES[1::3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_and_two_threads_agree(dtype, shape, threads):
    x, _, grad_out = operands(*shape, dtype=dtype)
    padded = [torch.nn.functional.pad(tensor, (3, 2))[:, 3:-2] for tensor in (x, grad_out)]
    for name in ACTIVATIONS:
        threads(1)
        expected = results(name, x, grad_out)
        threads(2)
        assert all(map(same_bits, results(name, x, grad_out), expected))
        assert all(map(same_bits, results(name, *padded), expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_larger_than_the_caches(dtype):
    """Big calls may be stored in another way; odd rows put them at every alignment."""
    x, _, grad_out = (tensor.repeat(1031, 1) for tensor in operands(1, 5557, dtype=dtype))
    for name in ("swish", "softplus"):  # with loops of its own, and of the others
        row = results(name, x[:1], grad_out[:1])
        for result, expected in zip(results(name, x, grad_out), row, strict=True):
            assert same_bits(result, expected.expand_as(result))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out(dtype, device):
    """Written where it lies and nowhere else, with options and without; x itself is allowed."""
    x, _, _ = operands(ROWS, COLS, dtype=dtype)
    bias = random(COLS, dtype=dtype, seed=7)
    for name in activations_on(device):
        for options in ({}, {"bias": bias}):
            expected = fused(name, x, options, device=device).out
            moved = {option: row.to(device) for option, row in options.items()}
            for buffer, view in out_views(dtype):
                out = to_device(view, device)
                on_device = to_device(x, device)
                assert fused_acts.activation(on_device, name, out=out, **moved) is out
                view.copy_(expected)
                assert same_bits(storage_of(out).cpu().view_as(buffer), buffer)
            fused_acts.activation(on_device, name, out=on_device, **moved)
            assert same_bits(on_device.cpu(), expected)


def test_out_for_every_activation():
    x, _, _ = operands(ROWS, COLS, dtype=torch.float32)
    for name in ACTIVATIONS:
        out = torch.full_like(x, SENTINEL)
        assert getattr(fused_acts, name)(x, out=out) is out
        assert same_bits(out, fused_acts.activation(x, name))


def test_out_may_not_overlap_in_part():
    buffer = torch.randn(ROWS * COLS + 64)
    x, out = (buffer[first : first + ROWS * COLS].view(ROWS, COLS) for first in (0, 1))
    before = buffer.clone()
    for options in ({}, {"bias": torch.zeros(COLS)}):
        with pytest.raises(ValueError, match="^out: "):
            fused_acts.swish(x, out=out, **options)
        with pytest.raises(ValueError, match="^out: "):
            fused_acts.swish(x, out=buffer[:COLS].expand(ROWS, COLS), **options)
    assert same_bits(buffer, before)


RIGHT = torch.full((ROWS, COLS), SENTINEL)
WRONG = {
    "shape": (RIGHT[:, 1:], ValueError, (r"\[?6, 66", r"\[?6, 67")),
    "broadcast": (RIGHT[None], ValueError, ("1, 6, 67",)),
    "dtype": (RIGHT.double(), TypeError, ("float64|Double", "float32|Float")),
    "device": (RIGHT.to("meta"), ValueError, ("meta", "cpu")),
    "type": (RIGHT.tolist(), TypeError, ("list", "Tensor")),
}


@pytest.mark.parametrize("options", [{}, {"beta": 0.6}, {"bias": torch.zeros(COLS)}])
@pytest.mark.parametrize("what", WRONG)
def test_wrong_out(what, options):
    out, error, values = WRONG[what]
    x, _, _ = operands(ROWS, COLS, dtype=torch.float32)
    with pytest.raises(error, match="^out: ") as raised:
        fused_acts.swish(x, out=out, **options)
    assert all(re.search(value, str(raised.value)) for value in values), raised.value
    assert (RIGHT == SENTINEL).all()


def test_out_is_not_recorded_by_autograd():
    x, _, _ = operands(ROWS, COLS, dtype=torch.float32)
    out = torch.full_like(x, SENTINEL)
    row = torch.ones(COLS, requires_grad=True)
    for inputs, options in (
        ((x.clone().requires_grad_(),), {}),
        ((x, row), {}),
        ((x,), parameter("swish", row)),
    ):
        with pytest.raises(RuntimeError, match="^out: "):
            fused_acts.swish(*inputs, out=out, **options)
        assert (out == SENTINEL).all()
        with torch.no_grad():
            fused_acts.swish(*inputs, out=out, **options)
        assert not out.requires_grad
        out.fill_(SENTINEL)


def test_a_recorded_tensor_notices_that_it_was_written():
    x, _, _ = operands(ROWS, COLS, dtype=torch.float64)
    out = torch.ones_like(x)
    product = torch.ones_like(x, requires_grad=True) * out  # saves out
    fused_acts.swish(x, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
