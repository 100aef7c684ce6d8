"""Limits: 0 and infinity, what lies on them, and what is not finite."""

import math

import pytest
import torch
from cases import DEVICES, DTYPES, operands
from option_cases import LIMITED, fused
from tolerances import check

import fused_acts


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", LIMITED)
def test_a_limit_of_0_is_one_and_infinity_is_none(variant, dtype, device):
    gate, up, grad_out = operands(6, 33, dtype=dtype)
    none, infinite, zero = (
        fused(variant, gate, up, {"limit": limit}, grad_out, device=device)
        for limit in (None, math.inf, 0)
    )
    for one, other in zip((none.out, *none.inputs), (infinite.out, *infinite.inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    nothing = fused_acts.reference.gated(
        gate.double().clamp(max=0), torch.zeros_like(up).double(), variant=variant, limit=None
    )
    check(zero.out, nothing, 1.0, torch.ones_like(nothing))
    assert not torch.equal(zero.out, none.out)
    assert not zero.inputs[0][gate > 0].any() and not zero.inputs[1].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", LIMITED)
def test_at_the_limit_the_gradient_passes(variant, dtype, device):
    """What lies on a bound is not cut off."""
    limit = torch.tensor(1.5, dtype=dtype)
    around = torch.stack(
        [
            value
            for x in (limit, -limit)
            for value in (x.nextafter(-10 * limit), x, x.nextafter(10 * limit))
        ]
    )
    gate, up = (t.flatten().contiguous() for t in torch.meshgrid(around, around, indexing="ij"))
    result = fused(variant, gate, up, {"limit": 1.5}, torch.ones_like(gate), device=device)
    row = fused_acts.reference.VARIANTS[variant]
    cut = row.f(gate.double()) if row.limits_value else gate
    for grad, inside in zip(result.inputs, (cut <= 1.5, up.abs() <= 1.5), strict=True):
        assert not grad[~inside].any()
        somewhere = gate > 0  # where no unit's own gradient is 0
        assert torch.equal(grad[somewhere] != 0, inside[somewhere])
        assert torch.equal(grad != 0, inside) or variant == "reglu"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", LIMITED)
def test_limits_of_what_is_not_finite(variant, dtype, device):
    gate = torch.tensor([math.inf, math.nan, 1.0, 1.0, 1.0], dtype=dtype)
    up = torch.tensor([1.0, 1.0, math.inf, -math.inf, math.nan], dtype=dtype)
    out = fused(variant, gate, up, {"limit": 2.0}, device=device).out
    expected = fused_acts.reference.gated(gate.double(), up.double(), variant=variant, limit=2.0)
    check(out, expected, 4.0, torch.ones_like(expected))
    assert out.isfinite().tolist() == [True, False, True, True, False]
