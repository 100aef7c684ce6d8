"""out=: written where it lies and nowhere else, or refused before anything is written."""

import re

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    KINDS,
    LAYOUTS,
    UNARY,
    as_inputs,
    forward,
    operands,
    own_layout,
    pack,
    rows_and_layouts,
    same_bits,
    to_device,
)
from cases import ROWS as EVERY_ROW
from derivative_cases import of
from option_cases import biases, fused

import fused_acts

ROWS, COLS = 6, 67
SENTINEL = 7.25


def out_views(dtype):
    """(buffer, view of [ROWS, COLS] in it), the buffer filled with the sentinel"""
    flat = torch.full((ROWS * COLS + 16,), SENTINEL, dtype=dtype)
    for offset in (0, 1, 2, 3, 5, 8):
        buffer = flat.clone()
        yield buffer, buffer[offset : offset + ROWS * COLS].view(ROWS, COLS)
    for extra, first in ((1, 0), (1, 1), (13, 5), (61, 8), (COLS, 0)):
        buffer = torch.full((ROWS, COLS + extra), SENTINEL, dtype=dtype)
        yield buffer, buffer[:, first : first + COLS]
    buffer = torch.full((2 * ROWS, COLS), SENTINEL, dtype=dtype)
    yield buffer, buffer[::2]


def storage_of(tensor):
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(KINDS))
def test_nothing_around_it_changes(name, layout, dtype, device):
    """With options and without."""
    gate, up, _ = operands(ROWS, COLS, dtype=dtype)
    inputs = [to_device(tensor, device) for tensor in as_inputs(gate, up, layout)]
    function, _ = of(name, layout=layout)
    for options in ({}, biases(name, COLS, dtype)):
        expected = fused(name, gate, up, options, layout=layout, device=device).out
        moved = {option: to_device(row, device) for option, row in options.items()}
        for buffer, view in out_views(dtype):
            out = to_device(view, device)
            assert call(function, inputs, out, moved) is out
            view.copy_(expected)
            written = storage_of(out).cpu().view_as(buffer)
            assert same_bits(written, buffer)


def call(function, inputs, out, options=None):
    return function(*inputs, **{"out": out}, **(options or {}))


def test_every_row_has_it():
    gate, up, _ = operands(ROWS, COLS, dtype=torch.float32)
    for name in EVERY_ROW:
        out = torch.full_like(gate, SENTINEL)
        inputs = as_inputs(gate, up, own_layout(name))
        assert getattr(fused_acts, name)(*inputs, out=out) is out
        assert same_bits(out, forward(name, gate, up))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINDS)
def test_in_place_of_an_operand(name, dtype, device):
    gate, up, _ = operands(ROWS, COLS, dtype=dtype)
    given = as_inputs(gate, up, own_layout(name))
    for options in ({}, biases(name, COLS, dtype)):
        moved = {option: to_device(row, device) for option, row in options.items()}
        expected = fused(name, gate, up, options, device=device).out
        for which in range(len(given)):
            inputs = [to_device(tensor, device) for tensor in given]
            call(of(name)[0], inputs, inputs[which], moved)
            for i, tensor in enumerate(inputs):
                assert same_bits(tensor.cpu(), expected if i == which else given[i])


def overlapping():
    """{what: (name, layout, inputs, an out that shares some of their elements, or its own)}"""
    buffer = torch.randn(ROWS * COLS * 2 + 64)
    view = buffer[: ROWS * COLS].view(ROWS, COLS)
    shifted = buffer[1 : ROWS * COLS + 1].view(ROWS, COLS)
    other = torch.randn(ROWS, COLS)
    x = buffer[: ROWS * COLS * 2].view(ROWS, 2 * COLS)
    itself = buffer[:COLS].expand(ROWS, COLS)
    return {
        "gate, shifted": ("swiglu", "separate", (view, other), shifted),
        "up, shifted": ("swiglu", "separate", (other, view), shifted),
        "gate, another row stride": ("swiglu", "separate", (view, other), x[:, :COLS]),
        "packed, across": ("swiglu", "gate_up", (x,), x[:, 1 : COLS + 1]),
        "packed, flat": ("swiglu", "gate_up", (x,), view),
        "packed, interleaved": ("swiglu", "interleaved", (x,), x[:, :COLS]),
        "itself": ("swiglu", "separate", (other, other), itself),
        "windows": ("swiglu", "separate", (other, other), buffer.as_strided((ROWS, COLS), (1, 1))),
        "x, shifted": ("swish", UNARY, (view,), shifted),
        "itself, alone": ("swish", UNARY, (other,), itself),
    }


@pytest.mark.parametrize("what", overlapping())
def test_partial_overlap_is_refused(what):
    name, layout, inputs, out = overlapping()[what]
    before = storage_of(out).clone()
    for options in ({}, biases(name, COLS, torch.float32)):
        with pytest.raises(ValueError, match="out"):
            call(of(name, layout=layout)[0], inputs, out, options)
        assert same_bits(storage_of(out), before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["gate_bias", "up_bias", "beta"])
def test_a_row_that_is_written_over_is_refused(name, device):
    gate, up, _ = (t.to(device) for t in operands(200, COLS, dtype=torch.float32))
    before = gate.clone()
    with pytest.raises(ValueError, match=f"^{name}: "):
        fused_acts.swiglu(gate, up, out=gate, **{name: gate[7]})
    option = "bias" if name == "gate_bias" else "beta"
    with pytest.raises(ValueError, match=f"^{option}: "):
        fused_acts.swish(gate, out=gate, **{option: gate[199]})
    assert same_bits(gate, before)
    wide = torch.cat((gate, up), 1)  # a row that lies between those of out
    expected = fused_acts.swiglu(gate, up, **{name: up[3]})
    fused_acts.swiglu(gate, up, out=wide[:, :COLS], **{name: wide[3, COLS:]})
    assert same_bits(wide[:, :COLS], expected)


RIGHT = torch.full((ROWS, COLS), SENTINEL)
WRONG = {
    "shape": (RIGHT[:, 1:], ValueError, (r"\[6, 66\]", r"\[6, 67\]")),
    "rank": (RIGHT[0], ValueError, (r"\[67\]", r"\[6, 67\]")),
    "broadcast": (RIGHT[None], ValueError, (r"\[1, 6, 67\]", r"\[6, 67\]")),
    "dtype": (RIGHT.double(), TypeError, ("float64|Double", "float32|Float")),
    "integer": (RIGHT.int(), TypeError, ("int32|Int", "float32|Float")),
    "device": (RIGHT.to("meta"), ValueError, ("meta", "cpu")),
    "type": (RIGHT.tolist(), TypeError, ("list", "Tensor")),
}


@pytest.mark.parametrize(
    "name, layout", [("swiglu", layout) for layout in LAYOUTS] + [("swish", UNARY)]
)
@pytest.mark.parametrize("what", WRONG)
def test_wrong_out(what, name, layout):
    out, error, values = WRONG[what]
    gate, up, _ = operands(ROWS, COLS, dtype=torch.float32)
    inputs = as_inputs(gate, up, layout)
    for options in ({}, {"beta": 0.6}, biases(name, COLS, torch.float32)):
        with pytest.raises(error, match="^out: ") as raised:
            call(of(name, layout=layout)[0], inputs, out, options)
        assert all(re.search(value, str(raised.value)) for value in values), raised.value
        assert (RIGHT == SENTINEL).all()


def test_is_not_recorded_by_autograd():
    """Whichever argument requires grad."""
    gate, up, _ = operands(ROWS, COLS, dtype=torch.float32)
    out = torch.full_like(gate, SENTINEL)
    leaf, row = gate.clone().requires_grad_(), torch.ones(COLS, requires_grad=True)
    for function, inputs, options in (
        (fused_acts.swiglu, (leaf, up), {}),
        (fused_acts.swiglu, (pack(leaf, up, "gate_up"),), {}),
        (fused_acts.swiglu, (gate, up), {"gate_bias": row}),
        (fused_acts.swiglu, (gate, up), {"beta": row[0]}),
        (fused_acts.swish, (leaf,), {}),
        (fused_acts.swish, (gate, row), {}),
        (fused_acts.swish, (gate,), {"beta": row}),
    ):
        with pytest.raises(RuntimeError, match="^out: "):
            function(*inputs, out=out, **options)
        assert (out == SENTINEL).all()
        with torch.no_grad():
            expected = function(*inputs, **options)
            function(*inputs, out=out, **options)
        assert same_bits(out, expected) and not out.requires_grad
        out.fill_(SENTINEL)


@pytest.mark.parametrize("name", ["swiglu", "swish"])
def test_a_recorded_tensor_notices_that_it_was_written(name):
    gate, up, _ = operands(ROWS, COLS, dtype=torch.float64)
    out = torch.ones_like(gate)
    weight = torch.ones_like(gate, requires_grad=True)
    product = weight * out  # saves out
    call(of(name)[0], as_inputs(gate, up, own_layout(name)), out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
