"""What only a CUDA device has: streams, device indices, memory of its own."""

import math
import os
from itertools import pairwise, product
from types import SimpleNamespace

import pytest
import torch
from cases import (
    DTYPES,
    LAYOUTS,
    as_inputs,
    forward_backward,
    gated,
    operands,
    pack,
    run,
    same_bits,
    to_device,
    unpack,
)
from subprocess_runner import run_alone

import fused_acts

pytestmark = pytest.mark.cuda
SOFTGPU = "SOFTGPU_HOME" in os.environ


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_stream(dtype):
    gate, up, grad_out = operands(33, 130, dtype=dtype)
    expected = run("swiglu", (gate, up), grad_out, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        results = run("swiglu", (gate, up), grad_out, device="cuda")
    stream.synchronize()
    assert all(map(same_bits, results, expected))


@pytest.mark.parametrize("where", ["gate", "up", "grad_out", "out"])
def test_operands_on_two_devices(where):
    tensors = dict(
        zip(("gate", "up", "grad_out"), operands(4, 8, dtype=torch.float32), strict=True)
    )
    tensors["out"] = torch.full((4, 8), 7.25)
    moved = {name: t if name == where else t.cuda() for name, t in tensors.items()}
    named = "up" if where == "gate" else where  # it is held against gate
    with pytest.raises(ValueError, match=f"^{named}: ") as raised:
        if where == "grad_out":
            inputs = moved["gate"], moved["up"]
            torch.ops.fused_acts.glu_backward(moved["grad_out"], *inputs, 0, 0, 3)
        else:
            fused_acts.gated(moved["gate"], moved["up"], out=moved["out"])
    assert "cpu" in str(raised.value) and "cuda" in str(raised.value)
    assert (moved["out"].cpu() == 7.25).all()


def use_two_devices():
    tensors = operands(33, 130, dtype=torch.float32)
    expected = forward_backward("swiglu", *tensors, device="cuda:0")
    for current, used in product((0, 1), (0, 1)):
        torch.cuda.set_device(current)
        for layout in LAYOUTS:
            result = forward_backward("swiglu", *tensors, layout, f"cuda:{used}")
            assert all(map(same_bits, result, expected))
        gate, up, _ = (tensor.to(f"cuda:{used}") for tensor in tensors)
        out = fused_acts.gated(gate, up, out=torch.empty_like(gate))
        assert same_bits(out.cpu(), expected.out)
        assert torch.cuda.current_device() == current
    here, there = ([t.to(device) for t in tensors] for device in ("cuda:0", "cuda:1"))
    out = torch.empty_like(there[0])
    backward = torch.ops.fused_acts.glu_backward
    for name, call in {
        "up": lambda: fused_acts.gated(here[0], there[1]),
        "out": lambda: fused_acts.gated(here[0], here[1], out=out),
        "grad_out": lambda: backward(there[2], here[0], here[1], 0, 0, 3),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: .*cuda:0.*cuda:1"):
            call()


@pytest.mark.skipif(
    not SOFTGPU and torch.cuda.device_count() < 2,
    reason="one CUDA device, and no second in software",
)
def test_the_device_of_the_operands_is_used():
    """Whichever is current, which stays so."""
    run_alone(use_two_devices, SOFTGPU_DEVICES="2")


def far_apart(rows, count, elements):
    """[count][rows] pieces of memory; those of neighbouring rows are more than 2^31 elements apart.

    Softgpu fills all memory it gives out, so this is no large tensor. But it gives out ascending
    addresses with a gap behind each, which nothing may touch: many small tensors reach far.
    """
    pieces, spacers = [], []
    for row in range(rows):
        pieces.append(
            [torch.empty(elements, dtype=torch.int16, device="cuda") for _ in range(count)]
        )
        for _ in range(17_000 if row + 1 < rows else 0):
            spacers.append(torch.empty(1, device="cuda"))
    return list(zip(*pieces, strict=True))


def far_matrix(pieces, values, further):
    """[rows, cols] with these values, a row in each piece, `further` on than in the one before."""
    for row, (piece, value) in enumerate(zip(pieces, values, strict=True)):
        piece[row * further :][: len(value)].copy_(value.view(torch.int16))
    (distance,) = {two.data_ptr() - one.data_ptr() for one, two in pairwise(pieces)}
    assert distance > 2 * 2**31
    array = SimpleNamespace(
        __cuda_array_interface__={
            "version": 3,
            "data": (pieces[0].data_ptr(), False),
            "shape": tuple(values.shape),
            "strides": (distance + 2 * further, 2),
            "typestr": "<i2",
        }
    )
    return torch.as_tensor(array, device="cuda").view(torch.bfloat16)


def use_far_rows():
    rows, cols = 3, 80
    gate, up, grad_out = operands(rows, cols, dtype=torch.bfloat16)
    nothing = torch.full_like(gate, math.nan)
    expected = run("swiglu", (gate, up), grad_out, device="cuda")
    first, second, third, fourth = far_apart(rows, 4, 2 * cols + 8)
    for further, layout in product((0, 1, 4), LAYOUTS):  # accesses of many columns, 1 and 4
        tensors = zip((first, second), as_inputs(gate, up, layout), strict=False)
        inputs = [far_matrix(pieces, tensor, further) for pieces, tensor in tensors]
        assert inputs[0].stride(0) > 2**31 and inputs[0].stride(0) % 2 == further % 2
        seed = far_matrix(third, grad_out, further)
        out = gated("swiglu", [tensor.requires_grad_() for tensor in inputs], layout)
        grads = [grad.cpu() for grad in torch.autograd.grad(out, inputs, seed)]
        if layout != "separate":
            grads = unpack(grads[0], layout)
        assert all(map(same_bits, (out.detach().cpu(), *grads), expected))

        inputs = [to_device(tensor, "cuda") for tensor in as_inputs(gate, up, layout)]
        out = far_matrix(fourth, nothing, further)
        options = {} if layout == "separate" else {"layout": layout}
        fused_acts.gated(*inputs, **options, out=out)
        assert same_bits(torch.stack([row.cpu() for row in out]), expected[0])


@pytest.mark.skipif(not SOFTGPU, reason="relies on the addresses that softgpu gives out")
def test_rows_more_than_2_31_elements_apart():
    run_alone(use_far_rows)


def test_packed_on_the_device_is_split_there():
    """A slice of a tensor on the device is read where it lies."""
    gate, up, _ = operands(5, 64, dtype=torch.bfloat16)
    x = to_device(pack(gate, up, "gate_up"), "cuda")
    out = fused_acts.swiglu(x[:, :64], x[:, 64:])
    assert same_bits(out.cpu(), fused_acts.swiglu(x).cpu())
