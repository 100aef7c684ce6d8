"""What only a CUDA device has: streams, device indices, launches and traffic."""

import json
import os
import subprocess
import sys

import pytest
import torch
from cases import (
    DTYPES,
    LAYOUTS,
    VARIANTS,
    operands,
    pack,
    run,
    same_bits,
    to_device,
)

import fused_acts

pytestmark = pytest.mark.cuda


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
            torch.ops.fused_acts.glu_backward(
                moved["grad_out"], moved["gate"], moved["up"], 0, True, True
            )
        else:
            fused_acts.gated(moved["gate"], moved["up"], out=moved["out"])
    assert "cpu" in str(raised.value) and "cuda" in str(raised.value)
    assert (moved["out"].cpu() == 7.25).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_the_device_of_the_operands_is_used():
    gate, up, grad_out = operands(33, 130, dtype=torch.float32)
    expected = run("swiglu", (gate, up), grad_out, device="cuda:0")
    assert torch.cuda.current_device() == 0
    assert all(map(same_bits, run("swiglu", (gate, up), grad_out, device="cuda:1"), expected))
    assert torch.cuda.current_device() == 0
    with pytest.raises(ValueError, match="^up: .*cuda:0.*cuda:1|^up: .*cuda:1.*cuda:0"):
        fused_acts.gated(gate.to("cuda:0"), up.to("cuda:1"))


def launches(tmp_path, script):
    """Softgpu's record of each launch of a Python script that runs in the tests' folder."""
    records = tmp_path / "launches.jsonl"
    records.touch()
    environment = {**os.environ, "SOFTGPU_STATS": str(records)}
    command = [sys.executable, "-c", script]
    folder = os.path.dirname(__file__)
    subprocess.run(command, env=environment, cwd=folder, check=True, timeout=300)
    return [json.loads(line) for line in records.read_text().splitlines()]


softgpu = pytest.mark.skipif("SOFTGPU_HOME" not in os.environ, reason="counted by softgpu")

COUNTED = """
import torch
from cases import as_inputs, operands, to_device
import fused_acts
ops = torch.ops.fused_acts
dtype = torch.{dtype}
for layout in {layouts}:
    gate, up, grad_out = operands({rows}, {cols}, dtype=dtype)
    inputs = [to_device(tensor, "cuda") for tensor in as_inputs(gate, up, layout)]
    grad_out = to_device(grad_out, "cuda")
    for variant in {variants}:
        if layout == "separate":
            ops.glu_forward(*inputs, variant, 0)
            ops.glu_backward(grad_out, *inputs, variant, True, True)
        else:
            index = ("gate_up", "up_gate", "interleaved").index(layout)
            ops.glu_forward(*inputs, None, variant, index)
            ops.glu_backward_packed(grad_out, *inputs, variant, index)
"""


@softgpu
@pytest.mark.parametrize("cols", [67, 2816])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_launch_and_each_byte_once(tmp_path, dtype, cols):
    """Every element is loaded once and every result stored once, whatever the layout."""
    rows, variants = 3, [len(VARIANTS) - 1]
    script = COUNTED.format(
        dtype=str(dtype).removeprefix("torch."),
        layouts=LAYOUTS,
        rows=rows,
        cols=cols,
        variants=variants,
    )
    records = launches(tmp_path, script)
    assert len(records) == 2 * len(LAYOUTS) * len(variants)
    size = rows * cols * dtype.itemsize
    for record, (loaded, stored) in zip(records, [(2, 1), (3, 2)] * len(LAYOUTS), strict=True):
        assert record["global_bytes_loaded"] == loaded * size
        assert record["global_bytes_stored"] == stored * size


@softgpu
def test_nothing_is_launched_for_nothing(tmp_path):
    every_variant = list(range(len(VARIANTS)))
    script = COUNTED.format(
        dtype="float32", layouts=LAYOUTS, rows=0, cols=8, variants=every_variant
    )
    assert launches(tmp_path, script) == []


def test_packed_on_the_device_is_split_there():
    """A slice of a tensor on the device is read where it lies."""
    gate, up, _ = operands(5, 64, dtype=torch.bfloat16)
    x = to_device(pack(gate, up, "gate_up"), "cuda")
    out = fused_acts.swiglu(x[:, :64], x[:, 64:])
    assert same_bits(out.cpu(), fused_acts.swiglu(x).cpu())
