"""The measure itself: a wrong ulp would make every other test lie."""

import math

import pytest
import torch
from cases import DTYPES, DTYPES_16, FUNCTIONS, VARIANTS, every_finite
from tolerances import (
    EXACT,
    FLOAT32_GRADIENT_ULPS_WITHOUT_ROOT,
    FLOAT32_ULPS_OF,
    FORWARD_ULPS,
    ROUNDED_ONCE,
    budget,
    check,
    check_gradient,
    gradient_budget,
    lost_digits,
    ulp,
    ulp_distance,
)

F64 = torch.float64


@pytest.mark.parametrize("dtype", DTYPES_16)
def test_ulp_is_the_gap_above_every_16_bit_number(dtype):
    values = every_finite(dtype).abs().double().unique()
    assert torch.equal(ulp(values[:-1], dtype), values.diff())
    assert torch.equal(ulp(-values, dtype), ulp(values, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_ulp_is_the_gap_to_the_next_number(dtype):
    values = torch.logspace(-37, 38, 5000, dtype=F64).to(dtype)
    gap = torch.nextafter(values, torch.full_like(values, math.inf)).double() - values.double()
    assert torch.equal(ulp(values.double(), dtype), gap)


def test_ulp_below_the_smallest_normal_number():
    assert ulp(torch.tensor([0.0, 1e-40, -1e-30], dtype=F64), torch.float32).tolist() == [
        2.0**-149,
        2.0**-149,
        2.0**-123,
    ]


@pytest.mark.parametrize("dtype", DTYPES_16)
def test_rounding_to_nearest_is_half_an_ulp_at_most(dtype):
    values = every_finite(dtype).double().unique()
    middles = (values[1:] + values[:-1]) / 2
    assert ulp_distance(middles.to(dtype), middles).max() == 0.5
    # One number further is a whole ulp more: the measure tells them apart.
    neighbours = torch.nextafter(middles.to(dtype), torch.tensor(math.inf, dtype=dtype))
    assert ulp_distance(neighbours[neighbours.isfinite()], middles[neighbours.isfinite()]).min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES_16])
def test_overflow_counts_as_rounding_has_it(dtype):
    largest = torch.finfo(dtype).max
    gap = ulp(torch.tensor(largest, dtype=F64), dtype).item()
    exact = torch.tensor([largest + 0.25 * gap, largest + 0.75 * gap, largest * 4], dtype=F64)
    to_infinity = ulp_distance(torch.full((3,), math.inf).to(dtype), exact)
    to_largest = ulp_distance(torch.full((3,), largest, dtype=F64).to(dtype), exact)
    assert to_infinity.tolist() == [0.75, 0.25, 0.0]
    assert to_largest.tolist() == [0.25, 0.75, 1.0]


def test_nan_and_infinity():
    nan, inf = math.nan, math.inf
    actual = torch.tensor([nan, nan, 1.0, inf, inf, -inf], dtype=torch.float32)
    exact = torch.tensor([nan, 1.0, nan, inf, -inf, 1.0], dtype=F64)
    distance = ulp_distance(actual, exact)
    assert distance[[0, 3]].tolist() == [0.0, 0.0]
    assert (distance[[1, 2, 4, 5]] > 1e6).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_check_refuses_what_is_outside(dtype):
    exact = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    actual = exact.to(dtype, copy=True)
    check(actual, exact, 0.0)
    actual[1] = torch.nextafter(actual[1], torch.tensor(9.0, dtype=dtype))
    check(actual, exact, 1.0)
    with pytest.raises(AssertionError, match="1 of 3 elements .* element 1, by 1:"):
        check(actual, exact, 0.99)


def test_only_subnormal_results_may_be_flushed():
    for dtype in (torch.float32, torch.bfloat16):
        smallest = torch.finfo(dtype).smallest_normal
        check(torch.zeros(2, dtype=dtype), torch.tensor([0.99, -0.01]).double() * smallest, 0.5)
        with pytest.raises(AssertionError, match="1 of 1"):
            check(torch.zeros(1, dtype=dtype), torch.tensor([smallest * 1.0001], dtype=F64), 0.5)
    with pytest.raises(AssertionError, match="1 of 1"):
        check(torch.zeros(1, dtype=torch.float16), torch.tensor([1e-6], dtype=F64), 0.55)


def test_a_budget_is_also_one_for_flushing():
    """An error that the budget has room for may bring a result below the smallest normal."""
    exact = torch.tensor([torch.finfo(torch.bfloat16).smallest_normal * 1.01], dtype=F64)
    floor, zero = exact * 2.0**7, torch.zeros(1, dtype=torch.bfloat16)
    check(zero, exact, 1.0, floor)
    for refused in ((0.5, floor), (1.0, None)):
        with pytest.raises(AssertionError, match="1 of 1"):
            check(zero, exact, *refused)


def test_digits_that_f_has_lost():
    """Those below 2^-149, times the factors of f(gate): 64 * 8 of them are 2^-7 of an ulp."""
    gate, up = torch.tensor([-63.0], dtype=F64), torch.tensor([8.0], dtype=F64)
    actual = torch.tensor([10 * 2.0**-133], dtype=torch.bfloat16)
    lost = lost_digits(gate, up)
    check(actual, (10.5 + 2.0**-7) * actual.double() / 10, 0.5, lost=lost)
    for refused in ((10.5 + 2.0**-6, lost), (10.5 + 2.0**-7, None), (10.5 + 2.0**-7, lost / 2)):
        with pytest.raises(AssertionError, match="1 of 1"):
            check(actual, refused[0] * actual.double() / 10, 0.5, lost=refused[1])
    infinite, nan = torch.tensor([math.inf], dtype=F64), torch.tensor([math.nan], dtype=F64)
    assert not lost_digits(gate, infinite).any() and not lost_digits(nan, up).any()


def test_gradient_floor():
    dtype = torch.bfloat16
    variant, by = next(
        (variant, by)
        for variant, functions in FUNCTIONS.items()
        for by, function in enumerate(functions)
        if function not in EXACT | ROUNDED_ONCE
    )
    one = torch.ones(1, dtype=F64)
    floor_ulp = 2.0**-8 * 2.0**-7
    exact = one * 2.0**-12
    check_gradient(variant, by, (exact + floor_ulp).to(dtype), exact, one)
    with pytest.raises(AssertionError):
        check_gradient(variant, by, (exact + 2 * floor_ulp).to(dtype), exact, one)
    with pytest.raises(AssertionError):  # above the floor the gradient's own ulp counts
        check_gradient(variant, by, (one + 2.0**-6).to(dtype), one, one)


def test_budgets():
    functions = {function for pair in FUNCTIONS.values() for function in pair}
    named = (
        EXACT | ROUNDED_ONCE | FLOAT32_ULPS_OF.keys() | FLOAT32_GRADIENT_ULPS_WITHOUT_ROOT.keys()
    )
    assert functions >= named
    for variant in VARIANTS:
        for dtype in DTYPES_16:
            assert budget(variant, dtype) in (0.5, FORWARD_ULPS[dtype])
            for by in (0, 1):
                assert gradient_budget(variant, by, dtype)[0] in (0.5, 1.0)
        assert budget(variant, torch.float32) in (0.5, 1.5, 3.0, 6.0, 16.0)
