"""NaN, infinities, zeros and subnormals: as torch's own composition, or closer to the limit."""

import itertools
import math

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    DTYPES_16,
    VARIANTS,
    Result,
    exact,
    exact_forward,
    forward,
    forward_backward,
    in_range,
    nan_at_every_place,
    same_bits,
)
from tolerances import check_result

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
@pytest.mark.parametrize("variant", VARIANTS)
def test_as_torch_or_the_limit(variant, dtype, device):
    gate, up = pairs(SPECIAL, SPECIAL, dtype)
    grad_out = torch.full_like(gate, -1.5)
    result = forward_backward(variant, gate, up, grad_out, device=device)
    accepted = [
        exact(variant, some_gate, some_up, grad_out)
        for some_gate, some_up in itertools.product(limits(gate), limits(up))
    ]
    for name in Result._fields:
        actual = getattr(result, name)
        fits = torch.stack([agrees(actual, getattr(one, name)) for one in accepted]).any(0)
        wrong = [
            (g.item(), u.item(), a.item(), [getattr(one, name)[i].item() for one in accepted])
            for i, (g, u, a, fit) in enumerate(zip(gate, up, actual, fits, strict=True))
            if not fit
        ]
        assert not wrong, f"{name}: (gate, up, got, accepted) {wrong}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_is_never_swallowed(variant, dtype, device):
    """NaNs of both signs and any payload, at every place of a vector."""
    with_nan, without = nan_at_every_place(dtype)
    places = with_nan.isnan()
    for gate, up in ((with_nan, without), (without, with_nan)):
        out = forward(variant, gate, up, device=device)
        assert torch.equal(out.isnan(), places)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_nan(variant, dtype):
    gate, up = pairs(SPECIAL, SPECIAL, dtype)
    grad_out = torch.full_like(gate, NAN)
    result = forward_backward(variant, gate, up, grad_out)
    expected = exact(variant, gate, up, grad_out)
    for name in ("grad_gate", "grad_up"):
        torch_is_nan = getattr(expected, name).isnan()
        assert getattr(result, name).isnan()[torch_is_nan].all(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_sign_of_zero(variant, dtype):
    """That of the factors, also where a tail is too small for the dtype."""
    gate, up = pairs((0.0, -0.0, 0.7, -0.7, -300.0, -3e4), (0.0, -0.0, 1.0, -1.0), dtype)
    expected = exact_forward(variant, gate, up)
    assert torch.equal(forward(variant, gate, up).signbit(), expected.signbit())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_subnormal_operands(variant, dtype, device):
    """They are read as they are: brought back to size by the other operand, they count in full."""
    info = torch.finfo(dtype)
    fractions = torch.tensor([0.99, 0.5, 0.01, -0.01, -0.5, -0.99], dtype=torch.float64)
    small = (fractions * info.smallest_normal).to(dtype)
    assert (small != 0).all()
    large = torch.full_like(small, 1.0 / info.eps**2 if dtype != torch.float16 else 3e4)
    for operands in ((small, large), (large, small)):
        gate, up = (tensor[in_range(variant, operands[0])] for tensor in operands)
        for grad_out in (torch.ones_like(gate), large[: len(gate)]):
            result = forward_backward(variant, gate, up, grad_out, device=device)
            check_result(variant, result, exact(variant, gate, up, grad_out))


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES_16])  # in float64 the oracle overflows
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_largest_numbers(variant, dtype):
    """No infinity or NaN from an intermediate step where the result itself is finite."""
    largest = torch.finfo(dtype).max
    gate, up = pairs((largest, -largest, largest / 2, -largest / 2), (1.0, -0.5, 0.25), dtype)
    gate, up = (tensor[in_range(variant, gate)] for tensor in (gate, up))
    grad_out = torch.full_like(gate, 0.5)
    result = forward_backward(variant, gate, up, grad_out)
    check_result(variant, result, exact(variant, gate, up, grad_out))


@pytest.mark.parametrize("variant", VARIANTS)
def test_flushing_mode_of_the_process_stays(variant):
    """The kernels may flush; they must not leave the processor in that mode."""
    tiny = torch.full((1000,), 1e-40)
    before = tiny * 1.0
    forward(variant, torch.full((1000,), -95.0), tiny)
    assert same_bits(tiny * 1.0, before) and (before != 0).all()
