"""out=: written where it lies and nowhere else, or refused before anything is written."""

import re

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    LAYOUTS,
    as_inputs,
    forward,
    operands,
    pack,
    same_bits,
    to_device,
    variants_on,
)

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


def call(variant, inputs, layout, out):
    options = {} if layout == "separate" else {"layout": layout}
    return fused_acts.gated(*inputs, variant=variant, out=out, **options)


def storage_of(tensor):
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_around_it_changes(dtype, layout, device):
    gate, up, _ = operands(ROWS, COLS, dtype=dtype)
    inputs = [to_device(tensor, device) for tensor in as_inputs(gate, up, layout)]
    for variant in variants_on(device):
        result = forward(variant, gate, up, device=device)
        for buffer, view in out_views(dtype):
            out = to_device(view, device)
            assert call(variant, inputs, layout, out) is out
            view.copy_(result)
            written = storage_of(out).cpu().view_as(buffer)
            assert same_bits(written, buffer)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", [0, 1])
def test_in_place_of_an_operand(which, dtype, device):
    gate, up, _ = operands(ROWS, COLS, dtype=dtype)
    for variant in variants_on(device):
        expected = forward(variant, gate, up, device=device)
        inputs = [to_device(gate, device), to_device(up, device)]
        fused_acts.gated(*inputs, variant=variant, out=inputs[which])
        assert same_bits(inputs[which].cpu(), expected)
        assert same_bits(inputs[1 - which].cpu(), (up, gate)[which])


def overlapping(kind):
    """inputs, layout and an out that shares some of their elements, but is not one of them"""
    buffer = torch.randn(ROWS * COLS * 2 + 64)
    view = buffer[: ROWS * COLS].view(ROWS, COLS)
    shifted = buffer[1 : ROWS * COLS + 1].view(ROWS, COLS)
    other = torch.randn(ROWS, COLS)
    x = buffer[: ROWS * COLS * 2].view(ROWS, 2 * COLS)
    return {
        "gate, shifted": ((view, other), "separate", shifted),
        "up, shifted": ((other, view), "separate", shifted),
        "gate, another row stride": ((view, other), "separate", x[:, :COLS]),
        "packed, across": ((x,), "gate_up", x[:, 1 : COLS + 1]),
        "packed, flat": ((x,), "gate_up", view),
        "packed, interleaved": ((x,), "interleaved", x[:, :COLS]),
        "itself": ((other, other), "separate", buffer[:COLS].expand(ROWS, COLS)),
        "itself, windows": ((other, other), "separate", buffer.as_strided((ROWS, COLS), (1, 1))),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "gate, shifted",
        "up, shifted",
        "gate, another row stride",
        "packed, across",
        "packed, flat",
        "packed, interleaved",
        "itself",
        "itself, windows",
    ],
)
def test_partial_overlap_is_refused(kind):
    inputs, layout, out = overlapping(kind)
    before = storage_of(out).clone()
    with pytest.raises(ValueError, match="out"):
        call("swiglu", inputs, layout, out)
    assert same_bits(storage_of(out), before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["gate_bias", "up_bias", "beta"])
def test_a_row_that_is_written_over_is_refused(name, device):
    gate, up, _ = (t.to(device) for t in operands(200, COLS, dtype=torch.float32))
    before = gate.clone()
    with pytest.raises(ValueError, match="parameter" if name == "beta" else name):
        fused_acts.swiglu(gate, up, out=gate, **{name: gate[7]})
    with pytest.raises(ValueError, match="bias" if name == "gate_bias" else "parameter"):
        option = "bias" if name == "gate_bias" else "beta"
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("what", WRONG)
def test_wrong_out(what, layout):
    out, error, values = WRONG[what]
    gate, up, _ = operands(ROWS, COLS, dtype=torch.float32)
    with pytest.raises(error, match="^out: ") as raised:
        call("swiglu", as_inputs(gate, up, layout), layout, out)
    assert all(re.search(value, str(raised.value)) for value in values), raised.value
    assert (RIGHT == SENTINEL).all()


def test_is_not_recorded_by_autograd():
    gate, up, _ = operands(ROWS, COLS, dtype=torch.float32)
    out = torch.full_like(gate, SENTINEL)
    for inputs in ((gate.requires_grad_(), up), (pack(gate, up, "gate_up"),)):
        with pytest.raises(RuntimeError, match="out"):
            fused_acts.gated(*inputs, out=out)
        assert (out == SENTINEL).all()
    with torch.no_grad():
        fused_acts.gated(gate, up, out=out)
    assert same_bits(out, forward("swiglu", gate.detach(), up)) and not out.requires_grad


def test_a_recorded_tensor_notices_that_it_was_written():
    gate, up, _ = operands(ROWS, COLS, dtype=torch.float64)
    out = torch.ones_like(gate)
    weight = torch.ones_like(gate, requires_grad=True)
    product = weight * out  # saves out
    fused_acts.gated(gate, up, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
