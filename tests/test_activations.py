"""Activations alone: values and gradients against the float64 oracle, and that against torch."""

import pytest
import torch
from activation_cases import (
    ACTIVATIONS,
    FUNCTION_OF,
    PARAMETRIC,
    ROWS,
    TORCH,
    check_result,
    exact,
    forward,
    fused,
    in_range,
    torch_function,
)
from cases import DEVICES, DTYPES, DTYPES_16, default_parameter, every_finite, operands, same_bits
from tolerances import (
    EXACT,
    FLUSH_MARGIN,
    FORWARD_ULPS,
    GRADIENT_FLOOR,
    GRADIENT_ULPS,
    MAY_FLUSH,
    budget,
    check,
    gradient_budget,
    ulp_distance,
)

import fused_acts
from fused_acts import reference

GRADS = (1.0, -0.37, 24.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_against_the_oracle(name, dtype, device):
    x, _, grad_out = operands(5, 3, 136, dtype=dtype)
    result = fused(name, x, None, grad_out, device)
    assert result.out.dtype == result.inputs[0].dtype == dtype
    assert result.out.is_contiguous() and result.inputs[0].is_contiguous()
    check_result(name, result, exact(name, x, grad_out))
    assert same_bits(forward(name, x, device), result.out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_number(name, dtype, device):
    x = every_finite(dtype)
    x = x[in_range(name, x)]
    for grad in GRADS if device == "cpu" else GRADS[1:2]:
        grad_out = torch.full_like(x, grad)
        check_result(name, fused(name, x, None, grad_out, device), exact(name, x, grad_out))


@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_further_from_the_truth_than_torch(name, dtype):
    """Over every number: the worst error of value and derivative; or it is within the budget."""
    x = every_finite(dtype)
    x = x[in_range(name, x)]
    grad_out = torch.ones_like(x)
    truth = exact(name, x, grad_out)
    ours = fused(name, x, None, grad_out)
    leaf = x.clone().requires_grad_()
    out = torch_function(name, leaf)
    (grad,) = torch.autograd.grad(out, leaf, grad_out)
    floor = torch.full_like(truth.grad_gate, GRADIENT_FLOOR)
    for mine, theirs, right, least, ulps in (
        (ours.out, out.detach(), truth.out, None, FORWARD_ULPS[dtype]),
        (ours.inputs[0], grad, truth.grad_gate, floor, GRADIENT_ULPS[dtype]),
    ):
        worst, torch_worst = (errors(tensor, right, least).max() for tensor in (mine, theirs))
        assert worst <= max(torch_worst, ulps), (worst, torch_worst)


def errors(actual, right, floor):
    """In ulps, of what is not flushed to zero."""
    distance = ulp_distance(actual, right, floor)
    tiny = right.abs() < torch.finfo(actual.dtype).smallest_normal * FLUSH_MARGIN
    return distance if actual.dtype not in MAY_FLUSH else torch.where(tiny, 0.0, distance)


def whole_range(dtype, dense, logarithmic):
    """From the largest numbers down to the subnormals, and densely over the tails."""
    magnitude = torch.logspace(-45, 38.5, logarithmic, dtype=torch.float64)
    line = torch.linspace(-120, 120, dense, dtype=torch.float64)
    return torch.cat((magnitude, -magnitude, line)).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_over_the_whole_range(name, dtype, device):
    x = whole_range(dtype, 200_001, 20_000)[:: 1 if device == "cpu" else 5]
    x = x[in_range(name, x)]
    grad_out = torch.full_like(x, 0.3)
    check_result(name, fused(name, x, None, grad_out, device), exact(name, x, grad_out))


# By x in float64. Autograd has 1 - tanh(x)^2 and 1 + expm1(x), which cancel in the tails.
SLOPES = {"tanh": lambda x: 1 / x.cosh() ** 2, "elu": torch.exp, "softplus": torch.sigmoid}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if FUNCTION_OF[name] in SLOPES])
def test_slopes_keep_their_tails(name, dtype, device):
    """Down to the smallest normal number, without a floor."""
    x = torch.linspace(-43.0, -0.125, 20_001, dtype=torch.float64).to(dtype)
    (grad,) = fused(name, x, None, torch.ones_like(x), device).inputs
    slope = SLOPES[FUNCTION_OF[name]](x.double())
    check(grad, slope, gradient_budget(name, 0, dtype)[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if FUNCTION_OF[name] in EXACT])
def test_exact_ones_are_those_of_torch(name, dtype, device):
    x = every_finite(dtype) if dtype in DTYPES_16 else whole_range(dtype, 10_001, 10_000)
    if dtype in MAY_FLUSH:
        x = x[(x == 0) | (x.abs() >= torch.finfo(dtype).smallest_normal)]
    if device == "cuda":  # whose maximum of -0 and 0 is 0
        x = x[(x != 0) | ~x.signbit()]
    assert same_bits(forward(name, x, device), torch_function(name, x))


def test_torch_has_them_all():
    assert TORCH.keys() == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_against_torch(name, dtype):
    x, _, _ = operands(64, 96, dtype=dtype)
    x.clamp_(-3, 9)  # further down torch's GELUs lose digits even in float64
    expected = TORCH[name](x.double(), *default_parameter(name, dtype).values())
    check(forward(name, x), expected, budget(name, dtype))


@pytest.mark.parametrize(
    "name, value",
    [(name, row.default) for name, row in ROWS.items()]
    + [(name, value) for name in PARAMETRIC for value in (0.7, 1.9)],
)
def test_the_oracle_is_torch(name, value):
    """Value, derivative and second derivative, at 0 and at its sides too."""
    row = ROWS[name]
    x = torch.cat((torch.linspace(-3, 9, 1001, dtype=torch.float64), torch.zeros(1).double()))
    given = {row.parameter: value} if row.parameter else {}
    results = []
    for function in (
        lambda x: reference.activation(x, name, **given),
        lambda x: TORCH[name](x, *given.values()),
    ):
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        (grad,) = torch.autograd.grad(out.sum(), leaf, create_graph=True)
        second = torch.zeros_like(x)
        if grad.requires_grad:
            (second,) = torch.autograd.grad(grad.sum(), leaf, materialize_grads=True)
        results.append((out.detach(), grad.detach(), second))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)


def test_silu_is_swish():
    assert fused_acts.silu is fused_acts.swish


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_saves_its_operand_and_nothing_else(name):
    x, _, grad_out = operands(8, 32, dtype=torch.float32)
    leaf = x.clone().requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = fused_acts.activation(leaf, name)
    assert {t.untyped_storage().data_ptr() for t in saved} == {leaf.data_ptr()}
    kept = out.detach().clone()
    for _ in range(2):  # a second pass over the same graph finds the same saved tensor
        torch.autograd.grad(out, leaf, grad_out, retain_graph=True)
    assert same_bits(leaf.detach(), x) and same_bits(out.detach(), kept)
    with torch.no_grad():
        assert fused_acts.activation(leaf, name).grad_fn is None


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_writing_over_the_saved_operand_is_noticed(name):
    x = operands(8, 32, dtype=torch.float32)[0].requires_grad_()
    out = fused_acts.activation(x, name)
    with torch.no_grad():
        x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
