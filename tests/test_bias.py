"""Biases: values, their gradients as sums over rows, and the memory that these take."""

from itertools import product

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
    operands,
    pack,
    rows_and_layouts,
    same_bits,
    to_device,
    widths,
)
from derivative_cases import Operators
from option_cases import LIMITED, biases, check_everything, check_sums, fused, oracle, real
from test_shapes import WIDTHS
from torch.profiler import ProfilerActivity, profile

import fused_acts


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_against_the_oracle(name, layout, dtype, device):
    """In the dtype of the operands and in float32, and with a limit."""
    for cols, own in product(widths(device), {dtype, real(dtype)}):
        gate, up, grad_out = operands(3, 13, cols, dtype=dtype)
        for limit in [{}, {"limit": 1.25}] if name in LIMITED else [{}]:
            options = biases(name, cols, own) | limit
            check_everything(name, gate, up, options, grad_out, layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant, layout", rows_and_layouts(("swiglu", "gtu")))
def test_packed_in_one(variant, layout, dtype, device):
    """`bias` is packed as x is; with two tensors, in halves."""
    gate, up, grad_out = operands(5, 34, dtype=dtype)
    packing = "gate_up" if layout == "separate" else layout
    apart = biases(variant, 34, real(dtype))
    expected = fused(variant, gate, up, apart, grad_out, layout, device)
    together = {"bias": pack(apart["gate_bias"], apart["up_bias"], packing)}
    result = fused(variant, gate, up, together, grad_out, layout, device)
    assert same_bits(result.out, expected.out)
    assert all(map(same_bits, result.inputs, expected.inputs))
    grads = pack(expected.options["gate_bias"], expected.options["up_bias"], packing)
    assert same_bits(result.options["bias"], grads)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant, layout", rows_and_layouts(VARIANTS))
def test_one_of_the_two(variant, layout, device):
    gate, up, grad_out = operands(70, 33, dtype=torch.float32)
    for name, bias in biases(variant, 33, torch.float32).items():
        result = check_everything(variant, gate, up, {name: bias}, grad_out, layout, device)
        zero = {"gate_bias": torch.zeros(33), "up_bias": torch.zeros(33), name: bias}
        both = fused(variant, gate, up, zero, grad_out, layout, device)
        assert same_bits(result.options[name], both.options[name])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "layout, wanted",
    [("separate", which) for which in ((0,), (1,), (2,), (3,), (0, 3), (2, 3), (1, 2))]
    + [("interleaved", which) for which in ((0,), (2,), (3,), (0, 3), (2, 3))],
)
def test_only_the_gradients_that_are_needed(layout, wanted, device):
    """The same bits as all of them together; what is not asked for is not computed."""
    gate, up, grad_out = operands(70, 34, dtype=torch.bfloat16)
    rows = biases("swiglu", 34, torch.float32)
    inputs = [gate, up] if layout == "separate" else [pack(gate, up, layout), None]
    others = {} if layout == "separate" else {"layout": layout}

    def gradients(which):
        tensors = [
            None if t is None else to_device(t, device).requires_grad_(i in which)
            for i, t in enumerate([*inputs, *rows.values()])
        ]
        options = dict(zip(rows, tensors[2:], strict=True))
        out = fused_acts.swiglu(*tensors[:2], **options, **others)
        with Operators() as ran:
            grads = torch.autograd.grad(
                out, [tensors[i] for i in which], to_device(grad_out, device)
            )
        (results,) = ran.results
        shapes = [tuple(result.shape) for result in results]
        for i, t in enumerate([*inputs, *rows.values(), None]):
            assert shapes[i] == (tuple(t.shape) if i in which else (0,))
        return dict(zip(which, (grad.cpu() for grad in grads), strict=True))

    every = gradients((0, 1, 2, 3) if layout == "separate" else (0, 2, 3))
    for i, grad in gradients(wanted).items():
        assert same_bits(grad, every[i])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [8161, 33333, 100_000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_sums_over_rows_that_do_not_part_evenly(dtype, rows, device):
    """The parts that the rows are summed in are as many as there are rows for."""
    gate, up, grad_out = operands(rows, 3, dtype=dtype)
    options = biases("geglu", 3, real(dtype))
    # Memory that was used before, so that what is not written shows.
    junk = [torch.full((2000, 3), 1e30, dtype=torch.float64) for _ in range(64)]
    del junk
    result = fused("geglu", gate, up, options, grad_out, device=device)
    check_sums(result, oracle("geglu", gate, up, options, grad_out), 3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "rows", [3000, 100_000, pytest.param(2_000_000, marks=(pytest.mark.cpu, pytest.mark.slow))]
)
def test_sums_over_many_rows_are_as_exact_as_those_of_torch(rows, device):
    """Numbers of one sign, whose sum takes on the rounding of every addition, in float32."""
    torch.manual_seed(0)
    x = torch.rand(rows, 3) + 0.5
    # Equal numbers round the same way each time.
    for grad_out, most in ((torch.rand(rows, 3), 1.5), (torch.full((rows, 3), 0.1), 6.0)):
        grad = fused("relu", x, x, {"bias": torch.zeros(3)}, grad_out, device=device)
        exact = grad_out.double().sum(0)
        error = (grad.options["bias"].double() - exact).abs() / exact
        assert error.max() <= torch.finfo(torch.float32).eps * most


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cols", [1, 2, 511, 512, 513, 1531])
def test_widths(cols, device):
    """Tiles of columns begin and end anywhere."""
    gate, up, grad_out = operands(41, cols, dtype=torch.bfloat16)
    for name, layout in (*(("geglu_tanh", layout) for layout in LAYOUTS), ("swish", UNARY)):
        options = biases(name, cols, torch.float32)
        check_everything(name, gate, up, options, grad_out, layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINDS)
def test_every_width(name, dtype, device):
    """A column's result doesn't depend on the width."""
    tensors, rows = operands(3, max(WIDTHS), dtype=dtype), biases(name, max(WIDTHS), dtype)
    full = fused(name, *tensors[:2], rows, tensors[2], device=device)
    for width in WIDTHS if name == "swish" else WIDTHS[::12]:
        gate, up, grad_out = (tensor[:, :width].contiguous() for tensor in tensors)
        narrow = {option: row[:width] for option, row in rows.items()}
        result = fused(name, gate, up, narrow, grad_out, device=device)
        for one, other in zip(result.tensors(), full.tensors(), strict=True):
            assert same_bits(one, other[..., :width]), width


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(34,), (0,), (3, 0), (0, 34), (2, 3, 34), (2, 1, 3, 34)])
def test_any_rank(shape, device):
    gate, up, grad_out = operands(*shape, dtype=torch.float64)
    for name, layout in (*(("gtu", layout) for layout in LAYOUTS), ("softplus", UNARY)):
        options = biases(name, shape[-1], torch.float64)
        check_everything(name, gate, up, options, grad_out, layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", KINDS)
def test_strided_biases(name, device):
    gate, up, grad_out = operands(9, 33, dtype=torch.float32)
    dense = biases(name, 33, torch.float32)
    strided = {
        option: torch.stack((bias, torch.full_like(bias, float("nan"))), 1)[:, 0]
        for option, bias in dense.items()
    }
    assert all(bias.stride() == (2,) for bias in strided.values())
    results = (fused(name, gate, up, o, grad_out, device=device) for o in (dense, strided))
    assert all(map(same_bits, *(result.tensors() for result in results)))


@pytest.mark.parametrize("name", ROWS)
def test_a_bias_of_minus_0_changes_nothing(name):
    """Nor does a bias that is not there: the sign of 0 stays."""
    gate = torch.tensor([[0.0, -0.0, 1.5, -2.5]])
    up = torch.tensor([[-0.0, 0.0, -0.0, 3.0]])
    plain = fused(name, gate, up, {}, torch.ones_like(gate))
    zero = {option: torch.full((4,), -0.0) for option in biases(name, 4, torch.float32)}
    biased = fused(name, gate, up, zero, torch.ones_like(gate))
    torch.testing.assert_close(biased.out, plain.out, rtol=1e-6, atol=0)
    assert torch.equal(biased.out.signbit(), plain.out.signbit())


def peak_of_allocations(profiler):
    """The most memory that was allocated at one time, in bytes, over what was there before."""
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    now = peak = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        now += size
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_of_the_backward(layout):
    """At most 1% over the gradients' own size at 4096 rows of bfloat16; the width cancels out."""
    gate, up, grad_out = operands(4096, 448, dtype=torch.bfloat16)
    inputs = [gate, up] if layout == "separate" else [pack(gate, up, layout)]
    rows = [torch.zeros(448, requires_grad=True) for _ in range(3)]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    others = {} if layout == "separate" else {"layout": layout}
    out = fused_acts.swiglu(*leaves, gate_bias=rows[0], up_bias=rows[1], beta=rows[2], **others)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        grads = torch.autograd.grad(out, [*leaves, *rows], grad_out)
    own = sum(grad.nbytes for grad in grads)
    peak = peak_of_allocations(profiler)
    assert own <= peak <= 1.01 * own


def test_the_measure_of_memory_sees_what_the_operators_take():
    gate, up, _ = operands(64, 448, dtype=torch.bfloat16)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = fused_acts.swiglu(gate, up)
        freed = fused_acts.swiglu(gate, up)
        del freed
        fused_acts.swiglu(gate[:1], up[:1])
    assert peak_of_allocations(profiler) == 2 * kept.nbytes


def test_the_backward_reads_the_data_once():
    """The operators of a backward pass with all gradients."""
    gate, up, grad_out = operands(64, 32, dtype=torch.bfloat16)
    rows = [torch.zeros(32, requires_grad=True) for _ in range(3)]
    leaves = [gate.requires_grad_(), up.requires_grad_()]
    out = fused_acts.swiglu(*leaves, gate_bias=rows[0], up_bias=rows[1], beta=rows[2])
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        torch.autograd.grad(out, [*leaves, *rows], grad_out)
    names = [event.name for event in profiler.events()]
    assert [name for name in names if name.startswith("fused_acts::")] == [
        "fused_acts::glu_backward_options"
    ]
    read = [
        event.name
        for event in profiler.events()
        if event.name.startswith("aten::") and [64, 32] in event.input_shapes
    ]
    assert not read
