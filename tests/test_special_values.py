"""NaN, infinities, zeros and subnormals: as torch's own composition, or closer to the limit."""

import itertools
import math

import pytest
import torch
from cases import (
    ACTIVATIONS,
    DEVICES,
    DTYPES,
    DTYPES_16,
    FUNCTIONS,
    RELU_KEEPS_THE_SIGN,
    ROWS,
    Result,
    default_parameters,
    exact,
    exact_forward,
    forward,
    forward_backward,
    in_range,
    nan_at_every_place,
    same_bits,
)
from option_cases import biases, fused, real
from tolerances import allowed_sum, check_result

import fused_acts

NAN, INF = math.nan, math.inf
FINITE = (0.0, -0.0, 0.7, -0.7, 3.0, -3.0, 7.0, -7.0, 8.0, -8.0)  # there is a limit at 7
SPECIAL = (*FINITE, INF, -INF, NAN)


def pairs(gates, ups, dtype):
    grid = torch.tensor(list(itertools.product(gates, ups)), dtype=torch.float64)
    return (column.contiguous() for column in grid.to(dtype).unbind(1))


def limits(tensor):
    """The operand as it is, and with a number beyond every dtype for infinity: torch makes
    x * sigmoid(x) NaN at -inf (-inf * 0), while its limit is -0."""
    yield tensor.double()
    yield torch.where(tensor.isinf(), tensor.double().sign() * 1e100, tensor.double())


def agrees(actual, expected):
    """The same class of number, and close where finite."""
    expected = torch.where(expected.abs() > 1e50, expected.sign() * INF, expected)
    return torch.isclose(actual, expected.to(actual.dtype), rtol=0.02, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_as_torch_or_the_limit(name, dtype, device):
    gate, up = pairs(SPECIAL, SPECIAL, dtype)
    grad_out = torch.full_like(gate, -1.5)
    result = forward_backward(name, gate, up, grad_out, device=device)
    accepted = [
        exact(name, some_gate, some_up, grad_out)
        for some_gate, some_up in itertools.product(limits(gate), limits(up))
    ]
    for part in Result._fields[: len(result.tensors())]:
        actual = getattr(result, part)
        fits = torch.stack([agrees(actual, getattr(one, part)) for one in accepted]).any(0)
        wrong = [
            (g.item(), u.item(), a.item(), [getattr(one, part)[i].item() for one in accepted])
            for i, (g, u, a, fit) in enumerate(zip(gate, up, actual, fits, strict=True))
            if not fit
        ]
        assert not wrong, f"{part}: (gate, up, got, accepted) {wrong}"


def torch_with_gradient(name, x, grad_out):
    """An activation as torch has it."""
    leaf = x.clone().requires_grad_()
    row = ROWS[name]
    out = (row.eager or row.f)(leaf, *default_parameters(name, x.dtype).values())
    return out.detach(), torch.autograd.grad(out, leaf, grad_out)[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_nan_where_torch_has_none(name, dtype, device):
    x = torch.tensor(SPECIAL, dtype=dtype)
    grad_out = torch.full_like(x, -1.5)
    result = forward_backward(name, x, x, grad_out, device=device)
    # in float64: in float32 torch may leave it to other libraries, for whom gelu' is infinite there
    torch_result = torch_with_gradient(name, x.double(), grad_out.double())
    for actual, theirs in zip(result.tensors(), torch_result, strict=True):
        assert not (actual.isnan() & ~theirs.isnan() & ~x.isnan()).any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_nan_is_never_swallowed(name, dtype, device):
    """NaNs of both signs and any payload, at every place of a vector."""
    with_nan, without = nan_at_every_place(dtype)
    places = with_nan.isnan()
    both = ((with_nan, without), (without, with_nan))
    for gate, up in both[: 1 if name in ACTIVATIONS else 2]:
        out = forward(name, gate, up, device=device)
        assert torch.equal(out.isnan(), places)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_is_never_swallowed_by_a_gradient(name, dtype, device):
    """In x and in grad_out."""
    with_nan, without = nan_at_every_place(dtype)
    places = with_nan.isnan()
    one = torch.ones_like(without)
    for x, grad_out in ((with_nan, one), (one, with_nan)):
        grad = forward_backward(name, x, x, grad_out, device=device).grad_gate
        torch_is_nan = torch_with_gradient(name, x, grad_out)[1].isnan()
        assert grad.isnan()[torch_is_nan].all() and not grad[~places].isnan().any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_a_nan_in_a_bias_is_not_swallowed(name, dtype, device):
    gate = torch.tensor([[-0.7, 0.7, -0.7]], dtype=dtype).expand(4, 3).contiguous()
    for option in biases(name, 3, dtype):
        bias = torch.tensor([0.0, NAN, 0.0], dtype=dtype)
        out = fused(name, gate, gate, {option: bias}, device=device).out
        assert out.isnan()[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_nan(name, dtype):
    gate, up = pairs(SPECIAL, SPECIAL, dtype)
    grad_out = torch.full_like(gate, NAN)
    result = forward_backward(name, gate, up, grad_out)
    expected = exact(name, gate, up, grad_out)
    for part in Result._fields[1 : len(result.tensors())]:
        torch_is_nan = getattr(expected, part).isnan()
        assert getattr(result, part).isnan()[torch_is_nan].all(), part


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_sign_of_zero(name, dtype):
    """That of the factors, also where a tail is too small for the dtype."""
    gate, up = pairs((0.0, -0.0, 0.7, -0.7, -300.0, -3e4), (0.0, -0.0, 1.0, -1.0), dtype)
    if not RELU_KEEPS_THE_SIGN:
        for operand, function in zip((gate, up), FUNCTIONS[name], strict=True):
            if function in ("relu", "relu6"):
                operand[operand == 0] = 0.0
    expected = exact_forward(name, gate, up)
    assert torch.equal(forward(name, gate, up).signbit(), expected.signbit())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_subnormal_operands(name, dtype, device):
    """They are read as they are: brought back to size by the other operand, they count in full."""
    info = torch.finfo(dtype)
    fractions = torch.tensor([0.99, 0.5, 0.01, -0.01, -0.5, -0.99], dtype=torch.float64)
    small = (fractions * info.smallest_normal).to(dtype)
    assert (small != 0).all()
    large = torch.full_like(small, 1.0 / info.eps**2 if dtype != torch.float16 else 3e4)
    both = ((small, large), (large, small))
    for operands in both[: 1 if name in ACTIVATIONS else 2]:
        gate, up = (tensor[in_range(name, operands[0])] for tensor in operands)
        for grad_out in (torch.ones_like(gate), large[: len(gate)]):
            result = forward_backward(name, gate, up, grad_out, device=device)
            check_result(name, result, exact(name, gate, up, grad_out))


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES_16])  # in float64 the oracle overflows
@pytest.mark.parametrize("name", ROWS)
def test_the_largest_numbers(name, dtype):
    """No infinity or NaN from an intermediate step where the result itself is finite."""
    largest = torch.finfo(dtype).max
    gate, up = pairs((largest, -largest, largest / 2, -largest / 2), (1.0, -0.5, 0.25), dtype)
    gate, up = (tensor[in_range(name, gate)] for tensor in (gate, up))
    grad_out = torch.full_like(gate, 0.5)
    result = forward_backward(name, gate, up, grad_out)
    check_result(name, result, exact(name, gate, up, grad_out))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.0, -1.0, 1e-38, 1e-30, 1.0])
def test_swish_of_large_numbers_with_a_small_or_negative_beta(beta, dtype, device):
    """The sigmoid is not 0 there."""
    x = torch.tensor([-3e38, -1e38, -2e30, 2e30, 1e38, 3e38], dtype=dtype)
    expected = x.double() * torch.sigmoid(torch.tensor(beta).double() * x.double())
    out = fused("swish", x, x, {"beta": torch.tensor(beta)}, device=device).out
    torch.testing.assert_close(out.double(), expected, rtol=2**-7, atol=1e-37)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [1e38, 2.0, -2.0])
def test_softplus_where_the_exponent_overflows(beta, dtype, device):
    largest = torch.finfo(dtype).max
    x = torch.tensor([largest, -largest, largest / 2], dtype=dtype)
    expected = x.clamp(min=0) if beta > 0 else x.clamp(max=0)
    given = {"beta": torch.tensor(beta, dtype=real(dtype))}
    assert torch.equal(fused("softplus", x, x, given, device=device).out, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_with_a_beta_whose_reciprocal_overflows(dtype, device):
    """A number, or one a column, and its gradient; for x so large that beta * x is not small too.

    2^64 makes the exact reciprocal of the smallest float64 finite.
    """
    x = torch.tensor([0.0, 1.0, -1.0, 1e38, -1e38, 3e38, -3e38, INF, -INF]).to(dtype)
    seed = torch.full_like(x, 1.0 if dtype == torch.float16 else 1e-30)
    small = [1e-45, 7e-40, 2.1e-39, 2.5e-39, 2.9e-39, 1.1e-38, 1.2e-38, -2.5e-39, 1e-30]
    for value in [*small, 5e-324, 2e-309, 3e-308] if dtype == torch.float64 else small:
        beta = torch.tensor(value, dtype=real(dtype))
        z, scaled = x.double() * beta.double(), beta.double() * 2.0**64
        e = torch.exp(-z.abs())
        expected = (torch.where(z > 0, x.double(), 0.0) + e.log1p() * 2.0**64 / scaled).to(dtype)
        row = beta.expand(len(x)).clone().to(device).requires_grad_()
        for given in (beta.item(), beta.to(device), row):
            out = fused_acts.softplus(x.to(device), beta=given)
            torch.testing.assert_close(out.detach().cpu(), expected)
        out.backward(seed.to(device))
        share = (e.log1p() + torch.where(z.isinf(), 0.0, z.abs() * e / (1.0 + e))) * 2.0**64
        exact = (-(share / scaled) * (seed.double() * 2.0**64 / scaled)).to(row.dtype).double()
        grad = row.grad.cpu().double()
        allowed = allowed_sum(dtype, row.dtype, exact, exact.abs(), 1)
        assert ((grad == exact) | ((grad - exact).abs() <= allowed)).all(), (value, grad, exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_with_beta_0_is_infinite(dtype, device):
    """As torch's; a reciprocal of 0 must not become NaN."""
    x = torch.tensor([1.0, -1.0, 0.0] * 7, dtype=dtype)
    out = fused("softplus", x, x, {"beta": torch.zeros(1, dtype=real(dtype))}, device=device).out
    assert torch.equal(out, torch.full_like(x, INF))


@pytest.mark.parametrize("name", ROWS)
def test_flushing_mode_of_the_process_stays(name):
    """The kernels may flush, forward and backward; the processor does not stay in that mode."""
    tiny = torch.full((1000,), 1e-40)
    before = tiny * 1.0
    forward_backward(name, torch.full((1000,), -95.0), tiny, tiny)
    assert same_bits(tiny * 1.0, before) and (before != 0).all()
