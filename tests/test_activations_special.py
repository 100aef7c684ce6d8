"""Activations alone at NaN, infinities, zeros and subnormals: as torch, or closer to the limit."""

import math

import pytest
import torch
from activation_cases import (
    ACTIVATIONS,
    check_result,
    exact,
    forward,
    fused,
    in_range,
    torch_function,
)
from cases import DEVICES, DTYPES, DTYPES_16, nan_at_every_place, same_bits

NAN, INF = math.nan, math.inf


def real(dtype):
    return torch.promote_types(dtype, torch.float32)


SPECIAL = (0.0, -0.0, 0.7, -0.7, 3.0, -3.0, 8.0, -8.0, INF, -INF, NAN)
FAR = 1e100  # beyond every dtype, for infinity


def torch_with_gradient(name, x, grad_out):
    leaf = x.clone().requires_grad_()
    out = torch_function(name, leaf)
    return out.detach(), torch.autograd.grad(out, leaf, grad_out)[0]


def agrees(actual, expected):
    """The same class of number, and close where finite."""
    expected = torch.where(expected.abs() > FAR / 2, expected.sign() * INF, expected)
    return torch.isclose(actual, expected.to(actual.dtype), rtol=0.02, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_as_torch_or_the_limit(name, dtype, device):
    """torch makes x * sigmoid(x) NaN at -inf (-inf * 0), while its limit is -0."""
    x = torch.tensor(SPECIAL, dtype=dtype)
    grad_out = torch.full_like(x, -1.5)
    out, (grad,), _ = fused(name, x, None, grad_out, device)
    at_infinity = exact(name, x, grad_out)
    towards = exact(name, x.double().clamp(-FAR, FAR), grad_out)
    torch_results = torch_with_gradient(name, x, grad_out)
    for actual, torch_result, *accepted in (
        (out, torch_results[0], at_infinity.out, towards.out),
        (grad, torch_results[1], at_infinity.grad_gate, towards.grad_gate),
    ):
        fits = agrees(actual, accepted[0]) | agrees(actual, accepted[1])
        assert fits.all(), [(x[i], actual[i], [a[i] for a in accepted]) for i in (~fits).nonzero()]
        assert not (actual.isnan() & ~torch_result.isnan() & ~x.isnan()).any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_is_never_swallowed(name, dtype, device):
    """NaNs of both signs and any payload, at every place of a vector, in x and in grad_out."""
    with_nan, without = nan_at_every_place(dtype)
    places = with_nan.isnan()
    assert torch.equal(forward(name, with_nan, device).isnan(), places)
    one = torch.ones_like(without)
    for x, grad_out in ((with_nan, one), (one, with_nan)):
        (grad,) = fused(name, x, None, grad_out, device).inputs
        torch_is_nan = torch_with_gradient(name, x, grad_out)[1].isnan()
        assert grad.isnan()[torch_is_nan].all() and not grad[~places].isnan().any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_nan_in_bias_or_parameter_is_not_swallowed(name, dtype, device):
    x = torch.tensor([[-0.7, 0.7, -0.7]], dtype=dtype).expand(4, 3).contiguous()
    bias = torch.tensor([0.0, NAN, 0.0], dtype=dtype)
    assert fused(name, x, {"bias": bias}, device=device).out.isnan()[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_sign_of_zero(name, dtype):
    """Also where a tail is too small for the dtype."""
    x = torch.tensor((0.0, -0.0, -300.0, -3e4), dtype=dtype)
    expected = exact(name, x, torch.ones_like(x)).out
    assert torch.equal(forward(name, x).signbit(), expected.signbit())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_subnormal_operands(name, dtype, device):
    info = torch.finfo(dtype)
    fractions = torch.tensor([0.99, 0.5, 0.01, -0.01, -0.5, -0.99], dtype=torch.float64)
    small = (fractions * info.smallest_normal).to(dtype)
    assert (small != 0).all()
    x = small[in_range(name, small)]
    large = torch.full_like(x, 1.0 / info.eps**2 if dtype != torch.float16 else 3e4)
    for grad_out in (torch.ones_like(x), large):
        check_result(name, fused(name, x, None, grad_out, device), exact(name, x, grad_out))


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES_16])  # in float64 the oracle overflows
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_largest_numbers(name, dtype):
    """No infinity or NaN from an intermediate step where the result itself is finite."""
    largest = torch.finfo(dtype).max
    x = torch.tensor([largest, -largest, largest / 2, -largest / 2], dtype=dtype)
    x = x[in_range(name, x)]
    grad_out = torch.full_like(x, 0.5)
    check_result(name, fused(name, x, None, grad_out), exact(name, x, grad_out))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.0, -1.0, 1e-38, 1e-30, 1.0])
def test_swish_of_large_numbers_with_a_small_or_negative_beta(beta, dtype, device):
    """The sigmoid is not 0 there."""
    x = torch.tensor([-3e38, -1e38, -2e30, 2e30, 1e38, 3e38], dtype=dtype)
    expected = x.double() * torch.sigmoid(torch.tensor(beta).double() * x.double())
    out = fused("swish", x, {"beta": torch.tensor(beta)}, device=device).out
    torch.testing.assert_close(out.double(), expected, rtol=2**-7, atol=1e-37)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [1e38, 2.0, -2.0])
def test_softplus_where_the_exponent_overflows(beta, dtype, device):
    largest = torch.finfo(dtype).max
    x = torch.tensor([largest, -largest, largest / 2], dtype=dtype)
    expected = x.clamp(min=0) if beta > 0 else x.clamp(max=0)
    out = fused("softplus", x, {"beta": torch.tensor(beta, dtype=real(dtype))}, device=device).out
    assert torch.equal(out, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_with_beta_0_is_infinite(dtype, device):
    """As torch's; a reciprocal of 0 must not become NaN."""
    x = torch.tensor([1.0, -1.0, 0.0] * 7, dtype=dtype)
    out = fused("softplus", x, {"beta": torch.zeros(1, dtype=real(dtype))}, device=device).out
    assert torch.equal(out, torch.full_like(x, INF))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_flushing_mode_of_the_process_stays(name):
    """The kernels may flush; they must not leave the processor in that mode."""
    tiny = torch.full((1000,), 1e-40)
    before = tiny * 1.0
    fused(name, torch.full((1000,), -95.0), None, tiny)
    assert same_bits(tiny * 1.0, before) and (before != 0).all()
