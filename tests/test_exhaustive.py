"""Every finite 16-bit number, forward and backward, against the float64 oracle."""

import pytest
import torch
from cases import (
    ACTIVATIONS,
    DEVICES,
    DTYPES_16,
    KINDS,
    ROWS,
    VARIANTS,
    default_parameters,
    every_finite,
    exact,
    exact_forward,
    forward_backward,
    in_range,
)
from tolerances import (
    FLOAT32_ULPS_BEYOND_TORCH,
    FLUSH_MARGIN,
    FORWARD_ULPS,
    GRADIENT_FLOOR,
    GRADIENT_ULPS,
    MAY_FLUSH,
    check_result,
    ulp_distance,
)

import fused_acts

UPS = (1.0, -1.0, 0.5, 3.14159, 1e-3, 100.0)
GATES = (-9.0, -0.5, 0.75, 5.0, 11.0)
GRADS = (1.0, -0.37, 24.0)
# Between the numbers of a unit that every run tries. f itself is tried at every number by the
# activation that has the same functor, and by the units of KINDS.
STEP = 97
ALL_NUMBERS = [
    name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS
]


def grid(rows: torch.Tensor, cols: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair of two 1-d tensors: [len(rows), len(cols)] twice."""
    first, second = torch.meshgrid(rows, cols, indexing="ij")
    return first.contiguous(), second.contiguous()


def check_gates(name, gates, grads, device="cpu"):
    ups = torch.tensor(UPS if name in VARIANTS else UPS[:1], dtype=gates.dtype)
    up, gate = grid(ups, gates[in_range(name, gates)])
    for grad in grads:
        grad_out = torch.full_like(gate, grad)
        truth = exact(name, gate, up, grad_out)
        # Its exponential may be flushed to zero where up or grad_out would make a normal number of
        # it, by CUDA and by processors that scale a number in two steps.
        lost = (up, grad_out) if name == "softplus_glu" else ()
        lost = [factor.double().abs() * 2.0**-126 for factor in lost]
        check_result(name, forward_backward(name, gate, up, grad_out, device=device), truth, *lost)


def check_ups(variant, ups):
    """At gates inside and in both tails."""
    gate, up = grid(torch.tensor(GATES, dtype=ups.dtype), ups)
    grad_out = torch.ones_like(up)
    truth = exact(variant, gate, up, grad_out)
    check_result(variant, forward_backward(variant, gate, up, grad_out), truth)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("name", [*ACTIVATIONS, *ALL_NUMBERS])
def test_every_number(name, dtype, device):
    check_gates(name, every_finite(dtype), GRADS if device == "cpu" else GRADS[1:2], device)


@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("variant", ALL_NUMBERS)
def test_every_up(variant, dtype):
    check_ups(variant, every_finite(dtype))


@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("variant", VARIANTS)
def test_some_numbers_of_every_size(variant, dtype):
    check_gates(variant, every_finite(dtype)[::STEP], GRADS)
    check_ups(variant, every_finite(dtype)[::STEP])


@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_further_from_the_truth_than_torch(name, dtype):
    """Over every number: the worst error of value and derivative; or it is within the budget."""
    x = every_finite(dtype)
    x = x[in_range(name, x)]
    grad_out = torch.ones_like(x)
    truth = exact(name, x, x, grad_out)
    ours = forward_backward(name, x, x, grad_out)
    leaf = x.clone().requires_grad_()
    row = ROWS[name]
    out = (row.eager or row.f)(leaf, *default_parameters(name, dtype).values())
    (grad,) = torch.autograd.grad(out, leaf, grad_out)
    floor = torch.full_like(truth.grad_gate, GRADIENT_FLOOR)
    for mine, theirs, right, least, ulps in (
        (ours.out, out.detach(), truth.out, None, FORWARD_ULPS[dtype]),
        (ours.grad_gate, grad, truth.grad_gate, floor, GRADIENT_ULPS[dtype]),
    ):
        worst, torch_worst = (errors(tensor, right, least).max() for tensor in (mine, theirs))
        assert worst <= max(torch_worst, ulps), (worst, torch_worst)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_near_zero_as_close_as_torch_in_float32(name):
    x = torch.arange(0x31000000, 0x3F800000, 1009, dtype=torch.int32).view(torch.float32)
    x = torch.cat([x, -x])
    row, parameter = ROWS[name], default_parameters(name, x.dtype)
    truth = exact_forward(name, x, x)
    ours = fused_acts.activation(x, name)
    theirs = (row.eager or row.f)(x, *parameter.values())
    worst, torch_worst = (errors(tensor, truth, None).max() for tensor in (ours, theirs))
    assert worst <= torch_worst + FLOAT32_ULPS_BEYOND_TORCH, (worst, torch_worst)


def errors(actual, right, floor):
    """In ulps, of what is not flushed to zero."""
    distance = ulp_distance(actual, right, floor)
    tiny = right.abs() < torch.finfo(actual.dtype).smallest_normal * FLUSH_MARGIN
    return distance if actual.dtype not in MAY_FLUSH else torch.where(tiny, 0.0, distance)
