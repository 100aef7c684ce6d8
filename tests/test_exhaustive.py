"""Every finite 16-bit gate value, forward and backward, against the float64 oracle."""

import pytest
import torch
from cases import DEVICES, DTYPES_16, VARIANTS, every_finite, exact, forward_backward, in_range
from tolerances import check_result

UPS = (1.0, -1.0, 0.5, 3.14159, 1e-3, 100.0)
GATES = (-9.0, -0.5, 0.75, 5.0, 11.0)
GRADS = (1.0, -0.37, 24.0)


def grid(rows: torch.Tensor, cols: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair of two 1-d tensors: [len(rows), len(cols)] twice."""
    first, second = torch.meshgrid(rows, cols, indexing="ij")
    return first.contiguous(), second.contiguous()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_gate(variant, dtype, device):
    gates = every_finite(dtype)
    up, gate = grid(torch.tensor(UPS, dtype=dtype), gates[in_range(variant, gates)])
    for grad in GRADS if device == "cpu" else GRADS[1:2]:
        grad_out = torch.full_like(gate, grad)
        truth = exact(variant, gate, up, grad_out)
        result = forward_backward(variant, gate, up, grad_out, device=device)
        check_result(variant, result, truth)


@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_up(variant, dtype):
    """The other operand over its whole range, at gates inside and in both tails."""
    gate, up = grid(torch.tensor(GATES, dtype=dtype), every_finite(dtype))
    grad_out = torch.ones_like(up)
    truth = exact(variant, gate, up, grad_out)
    result = forward_backward(variant, gate, up, grad_out)
    check_result(variant, result, truth)
