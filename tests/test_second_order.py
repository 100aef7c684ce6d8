"""Double backward and forward mode: their values in every dtype, with options, and at kinks."""

import math

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    DTYPES_16,
    FUNCTIONS,
    LAYOUTS,
    PACKED,
    ROWS,
    UNARY,
    VARIANTS,
    as_inputs,
    operands,
    own_layout,
    random,
    rows_and_layouts,
    same_bits,
    to_device,
    unpack,
)
from derivative_cases import Operators, of, second, tangent, wide
from option_cases import LIMITED, numbers_for
from tolerances import SECOND_FLOOR, SECOND_ULPS, check, close

F64 = torch.float64


def check_second(actual, exact, gate, up, grad_out, directions):
    along_gate, along_up = (direction.abs() for direction in wide(directions))
    gate, up, grad_out = (tensor.abs() for tensor in wide((gate, up, grad_out)))
    # f and f' grow with gate at most, except relu^2
    f = (gate + 1.0).clamp(max=20.0)
    g = up + 1.0
    if len(actual) == 2:  # an activation: up is a 1 that stands still
        g, along_up = torch.ones_like(g), torch.zeros_like(g)
    scales = (
        along_gate * g * f + along_up * f,
        grad_out * (along_gate * g + along_up) * 2.0 * (1.0 if len(actual) == 3 else f),
        grad_out * along_gate * 2.0 * f,
    )
    dtype = actual[0].dtype
    for one, other, scale in zip(actual, exact, scales[: len(actual)], strict=True):
        check(one, other, SECOND_ULPS[dtype], scale * SECOND_FLOOR[dtype])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_against_the_oracle(name, layout, dtype, device):
    gate, up, grad_out = operands(3, 5, 36, dtype=dtype)
    directions = [random(3, 5, 36, dtype=dtype, seed=seed) for seed in (4, 5)]
    inputs, moves = (as_inputs(*pair, own_layout(name)) for pair in ((gate, up), directions))
    oracle = of(name)[1]
    exact = second(oracle, wide(inputs), grad_out.double(), wide(moves))
    along = tangent(oracle, wide(inputs), wide(moves))

    inputs, moves = (
        [to_device(tensor, device) for tensor in as_inputs(*pair, layout)]
        for pair in ((gate, up), directions)
    )
    function = of(name, layout=layout)[0]
    results = second(function, inputs, to_device(grad_out, device), moves)
    results = [tensor.cpu() for tensor in results]
    out = tangent(function, inputs, moves).cpu()
    if layout in PACKED:
        results[1:] = unpack(results[1], layout)
    check_second(results, exact, gate, up, grad_out, directions)
    assert same_bits(out, results[0])
    close(along, exact[0])


def extreme(dtype, name):
    values = [0.0, 1e-30, 20.0, 88.0, 90.0, 104.0, 1e4, 6e4, 1e13, 1e19, 3e19, 1e30, 3e38]
    # relu^2 itself must be a number
    most = torch.finfo(dtype).max ** (0.5 if FUNCTIONS[name][0] == "squared_relu" else 1.0)
    values = torch.tensor([value for value in values if value <= most], dtype=F64)
    return torch.cat((values, -values)).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_far_out(name, dtype, device):
    """No NaN from overflow: every result that is a number in float64 is one."""
    gate = extreme(dtype, name)
    zero, one = torch.zeros_like(gate), torch.ones_like(gate)
    function, oracle = of(name)
    for up_value in (1.0, -0.37):
        up = torch.full_like(gate, up_value)
        for directions in ((one, zero), (zero, one), (one, -one)):
            inputs, moves = (as_inputs(*t, own_layout(name)) for t in ((gate, up), directions))
            exact = second(oracle, wide(inputs), one.double(), wide(moves))
            results = second(
                function,
                [to_device(t, device) for t in inputs],
                to_device(one, device),
                [to_device(t, device) for t in moves],
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


def within_one_rounding(actual, exact):
    dtype = actual.dtype
    check(actual, exact, SECOND_ULPS[dtype], torch.full_like(exact, 2.0**-14))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("name, layout", rows_and_layouts(("reglu", "swiglu", "relu")))
def test_tangents_that_cancel_are_rounded_once(name, layout, dtype, device):
    """Those of an operand and of a bias of float32, and those of both parts of a gradient."""
    names = ("bias",) if name == "relu" else ("gate_bias", "up_bias")
    functions = of(name, names=names, layout=layout), of(name, names=names)
    ones = torch.ones(4, 8, dtype=dtype)
    biases = [torch.zeros(8) for _ in names]
    moves = [torch.full((8,), value) for value in (-0.998, -1.002)[: len(names)]]
    place = lambda tensors: [to_device(tensor, device) for tensor in tensors]  # noqa: E731
    inputs = *as_inputs(ones, ones, layout), *biases
    along = *as_inputs(ones, ones, layout), *moves
    out = tangent(functions[0][0], place(inputs), place(along)).cpu()
    inputs, along = ((*as_inputs(ones, ones, own_layout(name)), *t) for t in (biases, moves))
    within_one_rounding(out, tangent(functions[1][1], wide(inputs), wide(along)))


@pytest.mark.parametrize("dtype", DTYPES_16)
def test_both_parts_of_a_gradients_tangent_are_rounded_once(dtype):
    """What moves with the gradient of out, and what with the operands."""
    gate, up = torch.tensor([[1.0, 2.0]], dtype=dtype), torch.tensor([[3.0, -1.0]], dtype=dtype)
    seed, seed_move = torch.ones_like(gate), torch.full_like(gate, 0.3)
    function, oracle = of("reglu")
    moves = torch.ones_like(gate), (-(seed_move * up).double() * 1.002).to(dtype)

    def gradients_of(function):
        return lambda seed, *inputs: torch.func.vjp(function, *inputs)[1](seed)

    inputs = seed, gate, up
    along = seed_move, *moves
    results = torch.func.jvp(gradients_of(function), inputs, along)[1]
    exact = torch.func.jvp(gradients_of(oracle), tuple(wide(inputs)), tuple(wide(along)))[1]
    for actual, expected in zip(results, exact, strict=True):
        assert actual.dtype == dtype
        within_one_rounding(actual, expected)


@pytest.mark.parametrize("options", [{}, {"limit": 1.3}, {"gate_bias": torch.ones(6).double()}])
def test_it_is_one_kernel(options):
    gate, up, grad_out = operands(4, 6, dtype=F64)
    function = of("swiglu", **options)[0]
    with Operators() as ran:
        second(function, (gate, up), grad_out, (gate, up))
    ending = "_options" if options else ""
    forward, backward = f"glu_forward{ending}", f"glu_backward{ending}"
    assert ran.names == [forward, backward, "glu_double_backward"]
    with Operators() as ran:
        tangent(function, (gate, up), (gate, up))
    assert ran.names == [forward, "glu_double_backward"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", (*LAYOUTS, UNARY))
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
        for options in ({}, {"beta": 2.0}):
            out = of("swish" if layout == UNARY else "swiglu", layout=layout, **options)[0](*leaves)
            grads = torch.autograd.grad(out, leaves, seed, create_graph=True)
            results.append(torch.autograd.grad(grads, [seed, *leaves], [place(m) for m in moves]))
    for one, other in ((results[0], results[2]), (results[1], results[3])):
        assert all(map(same_bits, one, other))
