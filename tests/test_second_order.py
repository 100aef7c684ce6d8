"""Double backward and forward mode: their values in every dtype, with options, and at kinks."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import (
    DEVICES,
    DTYPES,
    LAYOUTS,
    VARIANTS,
    as_inputs,
    gated,
    operands,
    random,
    same_bits,
    to_device,
    unpack,
)
from option_cases import (
    LIMITED,
    Operators,
    numbers_for,
    of,
    second,
    tangent,
    wide,
)
from tolerances import GRADIENT_FLOOR, check

import fused_acts

F64 = torch.float64
# A second derivative is a sum of two products, rounded once; each has in it the error of 1 - s and
# the like, which counts at the size of the sum's terms (tolerances.py says more for the first one).
ULPS = {torch.bfloat16: 1.0, torch.float16: 1.0, torch.float32: 48.0, F64: 4500.0}
FLOOR = {
    torch.bfloat16: GRADIENT_FLOOR,
    torch.float16: GRADIENT_FLOOR,
    torch.float32: 1.0,
    F64: 1.0,
}


def check_second(actual, exact, gate, up, grad_out, directions):
    along_gate, along_up = (direction.abs() for direction in wide(directions))
    gate, up, grad_out = (tensor.abs() for tensor in wide((gate, up, grad_out)))
    # f and f' grow with gate at most, except relu^2
    f = (gate + 1.0).clamp(max=20.0)
    g = up + 1.0
    scales = (
        along_gate * g * f + along_up * f,
        grad_out * (along_gate * g + along_up) * 2.0,
        grad_out * along_gate * 2.0 * f,
    )
    dtype = actual[0].dtype
    for one, other, scale in zip(actual, exact, scales, strict=True):
        check(one, other, ULPS[dtype], scale * FLOOR[dtype])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_against_the_oracle(variant, dtype, layout, device):
    gate, up, grad_out = operands(3, 5, 36, dtype=dtype)
    directions = [random(3, 5, 36, dtype=dtype, seed=seed) for seed in (4, 5)]
    exact = second(of(variant)[1], wide((gate, up)), grad_out.double(), wide(directions))
    along = tangent(of(variant)[1], wide((gate, up)), wide(directions))

    inputs, moves = (
        [to_device(tensor, device) for tensor in as_inputs(*pair, layout)]
        for pair in ((gate, up), directions)
    )
    results = second(
        lambda *inputs: gated(variant, inputs, layout), inputs, to_device(grad_out, device), moves
    )
    results = [tensor.cpu() for tensor in results]
    out = tangent(lambda *inputs: gated(variant, inputs, layout), inputs, moves).cpu()
    if layout != "separate":
        results[1:] = unpack(results[1], layout)
    check_second(results, exact, gate, up, grad_out, directions)
    assert same_bits(out, results[0])
    torch.testing.assert_close(along, exact[0], rtol=1e-10, atol=1e-12)


def extreme(dtype, variant):
    values = [0.0, 1e-30, 20.0, 88.0, 90.0, 104.0, 1e4, 6e4, 1e13, 1e19, 3e19, 1e30, 3e38]
    # relu^2 itself must be a number
    most = torch.finfo(dtype).max ** (0.5 if variant == "squared_reglu" else 1.0)
    values = torch.tensor([value for value in values if value <= most], dtype=F64)
    return torch.cat((values, -values)).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_far_out(variant, dtype, device):
    """No NaN from overflow: every result that is a number in float64 is one."""
    gate = extreme(dtype, variant)
    zero, one = torch.zeros_like(gate), torch.ones_like(gate)
    for up_value in (1.0, -0.37):
        up = torch.full_like(gate, up_value)
        for directions in ((one, zero), (zero, one), (one, -one)):
            exact = second(of(variant)[1], wide((gate, up)), one.double(), wide(directions))
            results = second(
                of(variant)[0],
                *[[to_device(t, device) for t in pair] for pair in [(gate, up)]],
                to_device(one, device),
                [to_device(t, device) for t in directions],
            )
            results = [tensor.cpu() for tensor in results]
            assert not any(tensor.isnan().any() for tensor in results)
            check_second(results, exact, gate, up, one, directions)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", LIMITED)
def test_far_out_with_a_limit(variant, dtype, device):
    """What is cut off has no derivatives, however large it is."""
    gate = extreme(dtype, variant)
    up = gate.flip(0).contiguous()
    one = torch.ones_like(gate)
    function, reference = of(variant, limit=2.0)
    exact = second(reference, wide((gate, up)), one.double(), wide((one, one)))
    results = second(
        function,
        [to_device(gate, device), to_device(up, device)],
        to_device(one, device),
        [to_device(one, device)] * 2,
    )
    check_second(
        [r.cpu() for r in results], exact, gate.clamp(-2, 2), up.clamp(-2, 2), one, (one, one)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_and_biases_in_every_dtype(variant, dtype, device):
    """Fused, so within the same tolerance; the gradients by biases are sums of rounded rows."""
    rows, cols = 13, 36
    gate, up, grad_out = operands(rows, cols, dtype=dtype)
    biases = [random(cols, dtype=torch.float32, seed=seed, scale=0.5) for seed in (7, 8)]
    moves = [random(rows, cols, dtype=dtype, seed=seed) for seed in (4, 5)]
    still = [torch.zeros(cols)] * 2
    for others in numbers_for(variant) or [{}]:
        function, reference = of(variant, names=("gate_bias", "up_bias"), **others)
        inputs, directions = (gate, up, *biases), (*moves, *still)
        exact = second(reference, wide(inputs), grad_out.double(), wide(directions))
        results = second(
            function,
            [to_device(tensor, device) for tensor in inputs],
            to_device(grad_out, device),
            [to_device(tensor, device) for tensor in directions],
        )
        results = [tensor.cpu() for tensor in results]
        sizes = gate.abs() + 2.0, up.abs() + 2.0
        check_second(results[:3], exact[:3], *sizes, 2.0 * grad_out, moves)
        for grad, expected, terms in zip(results[3:], exact[3:], exact[1:3], strict=True):
            allowed = terms.abs().sum(0) * torch.finfo(dtype).eps + 1e-4
            assert grad.dtype == torch.float32
            assert ((grad.double() - expected).abs() <= allowed).all()


KINKED = {
    "reglu": lambda gate, up: F.relu(gate) * up,
    "leaky_reglu": lambda gate, up: F.leaky_relu(gate) * up,
    "preglu": lambda gate, up: F.leaky_relu(gate, 0.25) * up,
    "elu_glu": lambda gate, up: F.elu(gate) * up,
    "squared_reglu": lambda gate, up: F.relu(gate).square() * up,
    "glu_relu": lambda gate, up: torch.sigmoid(gate) * F.relu(up),
}


def at_kinks():
    """0 of either sign, and what is left and right of it, as gate and up."""
    some = torch.tensor([0.0, -0.0, 1.0, -1.0], dtype=F64)
    return [t.flatten().contiguous() for t in torch.meshgrid(some, some, indexing="ij")]


@pytest.mark.parametrize("variant", KINKED)
def test_first_derivative_at_kinks_as_torch(variant):
    inputs = at_kinks()
    one = torch.ones_like(inputs[0])
    for directions in ((one, one), (one, 0 * one), (0 * one, one)):
        results = [tangent(f, inputs, directions) for f in (of(variant)[0], KINKED[variant])]
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    results = [
        torch.autograd.grad(f(*leaves).sum(), leaves) for f in (of(variant)[0], KINKED[variant])
    ]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", KINKED)
def test_second_derivative_at_kinks_as_torch(variant):
    inputs = at_kinks()
    one = torch.ones_like(inputs[0])
    for directions in ((one, one), (one, 0 * one), (0 * one, one)):
        results = [second(f, inputs, one, directions) for f in (of(variant)[0], KINKED[variant])]
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", LIMITED)
def test_at_limits(variant):
    """What lies on a limit is inside, as it is for the gradient."""
    limit = 1.5
    some = torch.tensor([limit, -limit], dtype=F64)
    some = torch.cat((some, some.nextafter(some * 9), some.nextafter(some * 0)))
    gate, up = (t.flatten().contiguous() for t in torch.meshgrid(some, some, indexing="ij"))
    one = torch.ones_like(gate)

    def clamped(gate, up):
        gate = torch.where(gate > limit, limit, gate)
        up = torch.where(up.abs() > limit, limit * up.detach().sign(), up)
        return fused_acts.reference.gated(gate, up, variant=variant, limit=None)

    results = [
        second(f, (gate, up), one, (one, -one)) for f in (of(variant, limit=limit)[0], clamped)
    ]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"limit": 1.3}, {"gate_bias": torch.ones(6).double()}])
def test_it_is_one_kernel(options):
    gate, up, grad_out = operands(4, 6, dtype=F64)
    function = of("swiglu", **options)[0]
    with Operators() as ran:
        second(function, (gate, up), grad_out, (gate, up))
    kinds = ("", "") if not options else ("_options", "_options")
    assert ran.names == [f"glu_forward{kinds[0]}", f"glu_backward{kinds[1]}", "glu_second"]
    with Operators() as ran:
        tangent(function, (gate, up), (gate, up))
    assert ran.names == [f"glu_forward{kinds[0]}", "glu_second"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_threads(dtype, layout, device, threads):
    """Equal to the last bit for operands, grad_out and directions of any strides."""
    rows, cols = 130, 515
    gate, up, grad_out = operands(rows, cols, dtype=dtype)
    inputs = as_inputs(gate, up, layout)
    moves = as_inputs(*(random(rows, cols, dtype=dtype, seed=s) for s in (4, 5)), layout)

    def strided(tensor):
        buffer = torch.full((rows, tensor.shape[1] + 7), math.nan, dtype=dtype)
        return to_device(buffer[:, 3:-4].copy_(tensor), device)

    results = []
    for number, place in ((1, lambda t: to_device(t, device)), (2, strided)):
        threads(number)
        leaves = [place(tensor).requires_grad_() for tensor in inputs]
        seed = place(grad_out).requires_grad_()
        for options in ({}, {"limit": 2.0}):
            others = options if layout == "separate" else {**options, "layout": layout}
            out = fused_acts.swiglu(*leaves, **others)
            grads = torch.autograd.grad(out, leaves, seed, create_graph=True)
            results.append(torch.autograd.grad(grads, [seed, *leaves], [place(m) for m in moves]))
    for one, other in ((results[0], results[2]), (results[1], results[3])):
        assert all(map(same_bits, one, other))
