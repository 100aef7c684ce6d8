"""What one call costs on a CUDA device: calls of the runtime, launches, bytes moved."""

import json
import os
import subprocess
from functools import partial
from itertools import product

import pytest
import torch
from cases import (
    DTYPES,
    LAYOUTS,
    PACKED,
    VARIANTS,
    as_inputs,
    gated,
    operands,
    pack,
    to_device,
)
from cases import ROWS as UNITS
from subprocess_runner import run_alone
from test_launch_plan import named
from test_views import offset_by, row_stride

from fused_acts._build_info import launch_plan

pytestmark = pytest.mark.cuda
softgpu = pytest.mark.skipif("SOFTGPU_HOME" not in os.environ, reason="counted by softgpu")

OPS = torch.ops.fused_acts
ROWS, COLS = 3, 67
WIDEST = int(os.environ.get("FUSED_ACTS_WIDEST_ACCESS", 16))
# Without softgpu's kernels for torch's operators, which would be no calls of the runtime.
PLAIN_PATH = os.pathsep.join(
    path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if "softgpu" not in path
)
# Ahead of the CUDA runtime: each of its functions, with a line written for each call, that has the
# second argument, the size of an allocation, in it. Arguments are pointers and integers, and few.
COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#define COUNT(name)                                                                          \
  long name(long a, long size, long c, long d, long e, long f, long g, long h, long i) {     \
    static long (*next)(long, long, long, long, long, long, long, long, long);               \
    if (!next) next = dlsym(RTLD_NEXT, #name);                                               \
    const int calls = open(getenv("CUDA_CALLS"), O_WRONLY | O_APPEND);                       \
    if (dprintf(calls, #name " %ld\n", size) < 0) abort();                                   \
    close(calls);                                                                            \
    return next(a, size, c, d, e, f, g, h, i);                                               \
  }
"""


def compile_counter(folder):
    """A library that counts the calls of whatever the CUDA runtime of this process exports."""
    with open("/proc/self/maps") as maps:
        runtime = next(line.split()[-1] for line in maps if "cudart.so" in line)
    symbols = subprocess.check_output(["nm", "-D", "--defined-only", runtime], text=True).split()
    names = {symbol.split("@")[0] for symbol in symbols if symbol.startswith("cuda")}
    source, library = folder / "counter.c", folder / "counter.so"
    source.write_text(COUNTER + "".join(f"COUNT({name})\n" for name in sorted(names)))
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    return str(library)


def calls(dtype):
    """(name, function, sizes of the tensors it makes, in outputs)"""
    gate, up, grad_out = operands(ROWS, COLS, dtype=dtype)
    packed = [pack(gate, up, layout).cuda() for layout in PACKED]
    gate, up, grad_out = gate.cuda(), up.cuda(), grad_out.cuda()
    out = torch.empty_like(gate)
    backward = OPS.glu_backward
    yield "forward", lambda: OPS.glu_forward(gate, up, 0, 0), [1]
    yield "forward into out", lambda: OPS.glu_forward_out(gate, up, 0, 0, out), []
    yield "backward", lambda: backward(grad_out, gate, up, 0, 0, 3), [1, 1]
    yield "backward to gate", lambda: backward(grad_out, gate, up, 0, 0, 1), [1]
    yield "backward to up", lambda: backward(grad_out, gate, up, 0, 0, 2), [1]
    for i, x in enumerate(packed):
        yield f"forward, {PACKED[i]}", lambda i=i, x=x: OPS.glu_forward(x, None, 0, i), [1]
        yield f"backward, {PACKED[i]}", partial(backward, grad_out, x, None, 0, i, 1), [2]
    weight, offs = torch.ones(ROWS, dtype=dtype).cuda(), torch.tensor([1, 2]).int().cuda()
    plain = None, None, None, 1.0, 1.0, None, 1.0, 0, 0
    of_rows = weight, offs, 1
    yield "forward, offs", lambda: OPS.glu_forward_options(gate, up, *plain, *of_rows), [1]
    routed = partial(OPS.glu_backward_options, grad_out, gate, up, *plain, 3, *of_rows)
    yield "backward, offs", routed, [1, 1]
    leaves = [gate.requires_grad_(), up.requires_grad_()]
    recorded = gated("swiglu", leaves)
    grad = torch.autograd.grad
    yield "recorded", lambda: gated("swiglu", leaves), [1]
    yield "replayed", lambda: grad(recorded, leaves, grad_out, retain_graph=True), [1, 1]


def calls_with_sums(dtype):
    """The same, of backward calls with gradients of two biases and a parameter."""
    rows, cols = 70, 96  # several blocks of rows, and of columns
    gate, up, grad_out = (t.cuda() for t in operands(rows, cols, dtype=dtype))
    real = torch.float64 if dtype == torch.float64 else torch.float32
    swiglu, xielu = map(list(UNITS).index, ("swiglu", "xielu"))
    biases = gate[0], up[0]
    for number in dict.fromkeys((dtype, real)):
        parameters = {"a number": [1], "channels": [cols]}
        for name, size in parameters.items():
            beta = torch.ones(size, dtype=number).cuda()
            options = *biases, beta, 1.0, 1.0, None, 1.0, swiglu, 0, 31
            call = partial(OPS.glu_backward_options, grad_out, gate, up, *options)
            yield f"biases in {dtype}, {name} in {number}", call, None
        alphas = torch.ones(2, 1, dtype=number).cuda()
        options = biases[0], None, alphas, 1.0, 1.0, None, 1.0, xielu, 0, 21
        call = partial(OPS.glu_backward_options, grad_out, gate, None, *options)
        yield f"bias in {dtype}, two numbers in {number}", call, None
        weight = torch.ones(rows, dtype=number).cuda()
        numbers = None, 1.0, 1.0, None, 1.0, swiglu, 0
        by_expert = [torch.zeros(3, cols, dtype=dtype).cuda() for _ in range(2)]
        call = partial(OPS.glu_backward_options, grad_out, gate, up, *by_expert, *numbers, 47)
        for kind, values in (1, [3, 3, 60]), (3, [row % 4 - 1 for row in range(rows)]):
            experts = torch.tensor(values).int().cuda()
            each = partial(call, weight, experts, kind)
            yield f"weight in {number}, experts' biases, {kind}", each, None


def call_everything(record, calls_of):
    with open(record, "a", buffering=1) as marks:
        for dtype in DTYPES:
            for name, call, _ in globals()[calls_of](dtype):
                first = call()  # on a new device it also asks what the device can do
                marks.write(f"> {dtype} {name}\n")
                second = call()
                marks.write("<\n")
                del first, second  # only now, for to free memory is a call too


def runtime_calls(folder, calls_of):
    """(title, calls of the runtime, sizes of the tensors it makes) of each."""
    record = folder / "calls"
    record.touch()
    run_alone(
        call_everything,
        str(record),
        calls_of.__name__,
        LD_PRELOAD=compile_counter(folder) + ":" + os.environ.get("LD_PRELOAD", ""),
        CUDA_CALLS=str(record),
        PYTORCH_NO_CUDA_MEMORY_CACHING="1",  # each tensor is allocated by the runtime
        PYTHONPATH=PLAIN_PATH,
    )
    parts = [part.split("\n<\n")[0] for part in record.read_text().split("\n> ")[1:]]
    expected = [(dtype, name, made) for dtype in DTYPES for name, _, made in calls_of(dtype)]
    assert len(parts) == len(expected)
    for part, (dtype, name, made) in zip(parts, expected, strict=True):
        title, *called = part.splitlines()
        assert title == f"{dtype} {name}"
        # which device is current is asked often; an empty tensor stands for a gradient not wanted
        called = [c for c in called if not c.startswith("cudaGetDevice ") and c != "cudaMalloc 0"]
        yield title, called, [size * ROWS * COLS * dtype.itemsize for size in made or ()]


def test_a_call_allocates_its_outputs_and_launches_once(tmp_path):
    """No synchronisation, no copy and no scratch memory, so it can be captured in a graph too."""
    for title, called, sizes in runtime_calls(tmp_path, calls):
        assert called[:-1] == [f"cudaMalloc {size}" for size in sizes], title
        assert called[-1].startswith("cudaLaunchKernelExC "), title


def test_gradients_that_are_sums_take_one_more_launch(tmp_path):
    """It writes each in its own dtype: there is no cast behind it."""
    for title, called, _ in runtime_calls(tmp_path, calls_with_sums):
        memory = ("cudaMalloc ", "cudaFree ")  # of the partial sums, without torch's cache
        launches = [call.split()[0] for call in called if not call.startswith(memory)]
        assert launches == ["cudaLaunchKernelExC"] * 2, title


# (rows, cols, elements that the inputs are offset by, that their rows lie further apart)
CASES = [
    (1, 11008, 0, 0),
    (3, 2816, 0, 0),
    (3, 67, 0, 0),
    (3, 67, 3, 0),
    (3, 2816, 1, 0),
    (3, 2816, 2, 0),
    (3, 2816, 8, 0),
    (3, 2816, 0, 1),
    (3, 2816, 0, 4),
    (3, 2816, 0, 16),
]


def launch(cases, dtypes, variants):
    """A forward and a backward launch for each variant of each layout."""
    for dtype, (rows, cols, offset, further), layout in product(dtypes, cases, LAYOUTS):
        gate, up, grad_out = operands(rows, cols, dtype=getattr(torch, dtype))
        view = row_stride(further) if further else offset_by(offset)
        tensors = as_inputs(gate, up, layout)
        inputs = [to_device(view(tensor).copy_(tensor), "cuda") for tensor in tensors]
        grad_out = grad_out.cuda()
        for variant in variants:
            if layout == "separate":
                OPS.glu_forward(*inputs, variant, 0)
                OPS.glu_backward(grad_out, *inputs, variant, 0, 3)
            else:
                index = PACKED.index(layout)
                OPS.glu_forward(*inputs, None, variant, index)
                OPS.glu_backward(grad_out, *inputs, None, variant, index, 1)


def recorded(tmp_path, function, *arguments):
    """Softgpu's record of each launch of a function."""
    records = tmp_path / "launches.jsonl"
    records.touch()
    run_alone(
        function, *arguments, SOFTGPU_STATS=str(records), FUSED_ACTS_WIDEST_ACCESS=str(WIDEST)
    )
    return [json.loads(line) for line in records.read_text().splitlines()]


def launches(tmp_path, *arguments):
    return recorded(tmp_path, launch, *arguments)


@softgpu
def test_each_byte_moves_once_and_as_planned(tmp_path):
    """Every element is loaded once and every result stored once, whatever the operands."""
    records = launches(tmp_path, CASES, list(map(named, DTYPES)), [VARIANTS.index("swiglu")])
    calls = list(product(DTYPES, CASES, LAYOUTS, (False, True)))
    assert len(records) == len(calls)
    for record, call in zip(records, calls, strict=True):
        dtype, (rows, cols, offset, further), layout, backward = call
        size = rows * cols * dtype.itemsize
        loaded, stored = (3, 2) if backward else (2, 1)
        assert record["global_bytes_loaded"] == loaded * size, call
        assert record["global_bytes_stored"] == stored * size, call
        plan = launch_plan(
            named(dtype),
            rows,
            cols,
            layout=layout,
            row_stride=(cols if layout == "separate" else 2 * cols) + further,
            offset=offset,
            backward=backward,
            widest_access=WIDEST,
        )
        assert record["grid"] == [plan["grid"], 1, 1], call
        assert record["block"] == [plan["block"], 1, 1], call
        assert max(map(int, record["load_widths"])) == plan["bytes_per_access"], call
        if plan["bytes_per_access"] == WIDEST and (offset + further) % 16 == 0:
            # in sectors of 32 bytes too, a warp touches no more than what it takes
            assert record["sectors"] == record["sectors_ideal"], call


def launch_kinds():
    """Forward and backward calls of each kind, in the order of KINDS_OF_CALL."""
    gate, up, grad_out = (t.cuda() for t in operands(96, 512, dtype=torch.bfloat16))
    swiglu = list(UNITS).index("swiglu")
    plain = None, None, None, 1.0, 1.0, None, 1.0, swiglu, 0
    limited = None, None, None, 1.0, 1.0, 2.5, 1.0, swiglu, 0
    biased = gate[0].clone(), up[0].clone(), None, 1.0, 1.0, None, 1.0, swiglu, 0
    for options, needs in ((plain, 3), (limited, 3), (biased, 15)):
        OPS.glu_forward_options(gate, up, *options)
        OPS.glu_backward_options(grad_out, gate, up, *options, needs)
    OPS.glu_backward_options(grad_out, gate, up, *limited, 1)
    weight, of_row = torch.ones(96).cuda(), (torch.arange(96) % 4 - 1).int().cuda()
    offs = torch.tensor([8, 8, 80]).int().cuda()
    of_experts = *(torch.zeros(3, 512).bfloat16().cuda() for _ in range(2)), *biased[2:]
    for options, of_rows in (plain, (weight, of_row, 3)), (of_experts, (weight, offs, 1)):
        OPS.glu_forward_options(gate, up, *options, *of_rows)
        OPS.glu_backward_options(grad_out, gate, up, *options, 47, *of_rows)
    OPS.glu_forward_options(gate, up, *of_experts, weight, of_row, 3)
    moved = [torch.zeros(96, 513, dtype=torch.bfloat16).cuda()[:, 1:] for _ in range(2)]
    OPS.glu_forward_options(*moved, *plain)
    OPS.glu_double_backward(grad_out, gate, up, gate, up, *plain, True, True)


# (kernel, bytes of its widest load) of each launch
KINDS_OF_CALL = [
    *[("forward_kernel", WIDEST), ("backward_kernel", WIDEST)] * 2,
    *[("row_kernel", WIDEST), ("row_kernel", 16), ("reduce_kernel", 4)],  # with biases
    ("row_kernel", 16),  # one gradient alone
    *[("row_kernel", 16), ("row_kernel", 16), ("reduce_kernel", 4)] * 2,  # row weights, experts
    ("general_kernel", 4),  # rows anywhere with biases of their experts
    ("general_kernel", 2),  # between two elements
    ("general_kernel", 2),  # of second order
]


@softgpu
def test_calls_with_options_take_wide_kernels(tmp_path):
    records = recorded(tmp_path, launch_kinds)
    assert len(records) == len(KINDS_OF_CALL)
    for record, (kernel, widest) in zip(records, KINDS_OF_CALL, strict=True):
        assert kernel in record["kernel"]
        assert max(map(int, record["load_widths"])) == widest, record["kernel"]
        if kernel != "general_kernel":
            assert record["sectors"] == record["sectors_ideal"], record["kernel"]


@softgpu
def test_nothing_is_launched_for_nothing(tmp_path):
    nothing = [(0, 8, 0, 0), (8, 0, 0, 0), (0, 0, 0, 0)]
    assert launches(tmp_path, nothing, ["float32"], list(range(len(VARIANTS)))) == []


MAXOUTS = list(product(("bfloat16", "float32", "float64"), range(2, 9)))


def launch_maxouts():
    for dtype, pieces in MAXOUTS:
        x = torch.zeros(2, 136 * pieces, dtype=getattr(torch, dtype)).cuda()
        out, winner = OPS.maxout_forward(x, pieces)
        OPS.maxout_backward(out, winner, pieces)


@softgpu
def test_maxout_moves_16_bytes_at_once_whatever_the_number_of_pieces(tmp_path):
    records = tmp_path / "launches.jsonl"
    records.touch()
    run_alone(launch_maxouts, SOFTGPU_STATS=str(records))
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    for call, forward, backward in zip(MAXOUTS, lines[::2], lines[1::2], strict=True):
        dtype, pieces = call
        accesses = 2 * 136 * pieces * getattr(torch, dtype).itemsize // 16
        assert forward["load_widths"] == {"16": accesses}, call
        assert backward["store_widths"] == {"16": accesses}, call
