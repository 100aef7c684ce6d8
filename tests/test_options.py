"""Options that are numbers: parameters of f, limits; with out=, and what is refused."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    DEVICES,
    DTYPES,
    DTYPES_16,
    LAYOUTS,
    VARIANTS,
    as_inputs,
    every_finite,
    operands,
    pack,
    random,
    same_bits,
    to_device,
)
from option_cases import (
    LIMITED,
    PARAMETRIC,
    ROWS,
    check_call,
    fused,
    numbers_for,
    oracle,
    parameter,
)
from tolerances import FORWARD_ULPS, check

import fused_acts

WITH_NUMBERS = [name for name in VARIANTS if numbers_for(name)]
F64 = torch.float64


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", WITH_NUMBERS)
def test_against_the_oracle(variant, dtype, layout, device):
    gate, up, grad_out = operands(3, 5, 67, dtype=dtype)
    for options in numbers_for(variant):
        result = fused(variant, gate, up, options, grad_out, layout, device)
        assert result.out.dtype == dtype and result.out.is_contiguous()
        check_call(result, oracle(variant, gate, up, options, grad_out))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("variant", WITH_NUMBERS)
def test_every_finite_gate(variant, dtype, device):
    gate = every_finite(dtype)
    up = torch.full_like(gate, -1.7)
    for options in numbers_for(variant)[::2]:
        out = fused(variant, gate, up, options, device=device).out
        exact = fused_acts.reference.gated(gate.double(), up.double(), variant=variant, **options)
        check(out, exact, FORWARD_ULPS[dtype])


def gpt_oss(gate, up, alpha, limit):
    gate = gate.clamp(min=None, max=limit)
    up = up.clamp(min=-limit, max=limit)
    glu = gate * torch.sigmoid(gate * alpha)
    return (up + 1) * glu


# variant: options, the formula written out
FORMULAS = {
    "swiglu_oai": ({}, lambda gate, up: gpt_oss(gate, up, 1.702, 7.0)),
    "swiglu_oai with others": (
        {"alpha": 1.1, "limit": 2.0},
        lambda gate, up: gpt_oss(gate, up, 1.1, 2.0),
    ),
    "swiglu_oai without limit": (
        {"limit": None},
        lambda gate, up: (up + 1) * gate * torch.sigmoid(gate * 1.702),
    ),
    "quick_geglu": ({}, lambda gate, up: gate * torch.sigmoid(1.702 * gate) * up),
    "swiglu": ({"beta": 2.5}, lambda gate, up: gate * torch.sigmoid(2.5 * gate) * up),
    "swiglu with limit": (
        {"limit": 3.0},
        lambda gate, up: F.silu(gate.clamp(max=3.0)) * up.clamp(-3.0, 3.0),
    ),
    "reglu with limit": (
        {"limit": 3.0},
        lambda gate, up: F.relu(gate.clamp(max=3.0)) * up.clamp(-3.0, 3.0),
    ),
    "geglu with limit": (
        {"limit": 0.5},
        lambda gate, up: F.gelu(gate.clamp(max=0.5)) * up.clamp(-0.5, 0.5),
    ),
    "leaky_reglu": ({}, lambda gate, up: F.leaky_relu(gate) * up),
    "leaky_reglu with slope": (
        {"negative_slope": 0.3},
        lambda gate, up: F.leaky_relu(gate, 0.3) * up,
    ),
    "preglu": (
        {},
        lambda gate, up: F.prelu(gate, torch.tensor([0.25], dtype=gate.dtype)) * up,
    ),
    "elu_glu": ({}, lambda gate, up: F.elu(gate) * up),
    "elu_glu with alpha": ({"alpha": 1.6732}, lambda gate, up: F.elu(gate, 1.6732) * up),
    "gtu": ({}, lambda gate, up: torch.sigmoid(gate) * torch.tanh(up)),
    "tanh_glu": ({}, lambda gate, up: torch.tanh(gate) * up),
    "squared_reglu": ({}, lambda gate, up: F.relu(gate).square() * up),
    "glu_relu": ({}, lambda gate, up: torch.sigmoid(gate) * F.relu(up)),
}


@pytest.mark.parametrize("what", FORMULAS)
def test_formula(what):
    options, formula = FORMULAS[what]
    gate, up, grad_out = operands(16, 33, dtype=F64)
    up = 3.0 * up
    leaves = [gate.clone().requires_grad_(), up.clone().requires_grad_()]
    expected = formula(*leaves)
    grads = torch.autograd.grad(expected, leaves, grad_out)
    result = fused(what.split()[0], gate, up, options, grad_out)
    torch.testing.assert_close(result.out, expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.inputs, list(grads), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_defaults(variant):
    """What the signature says is what is computed."""
    gate, up, _ = operands(4, 33, dtype=torch.float32)
    function = getattr(fused_acts, variant)
    own = {
        name: p.default
        for name, p in inspect.signature(function).parameters.items()
        if name not in ("gate", "up", "layout", "out")
    }
    assert same_bits(function(gate, up), function(gate, up, **own))
    row = ROWS[variant]
    assert own.get(row.parameter) == (row.default if row.parameter else None)
    assert ("limit" in own) == row.limits and own.get("limit") == row.limit


def test_layout_of_packed_inputs_is_the_variants_own():
    gate, up, _ = operands(4, 8, dtype=torch.float32)
    for variant in VARIANTS:
        own = "interleaved" if variant == "swiglu_oai" else "gate_up"
        function = getattr(fused_acts, variant)
        assert same_bits(function(pack(gate, up, own)), function(gate, up)), variant


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
    for grad, inside in zip(result.inputs, (gate <= 1.5, up.abs() <= 1.5), strict=True):
        assert torch.equal(grad != 0, inside) or variant == "reglu"
        assert not grad[~inside].any()
    if variant == "reglu":  # whose gradients are 0 elsewhere too
        assert result.inputs[0][(gate == 1.5) & (up.abs() <= 1.5)].all()
        assert result.inputs[1][(gate > 0) & (up.abs() == 1.5)].all()


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", WITH_NUMBERS)
def test_out(variant, layout, device):
    options = numbers_for(variant)[0]
    gate, up, _ = operands(6, 33, dtype=torch.bfloat16)
    expected = fused(variant, gate, up, options, layout=layout, device=device).out
    inputs = [to_device(tensor, device) for tensor in as_inputs(gate, up, layout)]
    others = {} if layout == "separate" else {"layout": layout}
    out = torch.full((6, 40), 7.25, dtype=gate.dtype, device=device)
    result = fused_acts.gated(*inputs, variant=variant, out=out[:, 3:36], **options, **others)
    assert result.data_ptr() == out[:, 3:36].data_ptr()
    assert same_bits(out[:, 3:36].cpu(), expected)
    assert (out[:, :3] == 7.25).all() and (out[:, 36:] == 7.25).all()
    if layout == "interleaved":
        return
    # gate or up itself, or either half of a packed input
    targets = inputs if layout == "separate" else inputs[0].tensor_split(2, -1)
    for target in targets:
        kept = [tensor.clone() for tensor in inputs]
        fused_acts.gated(*inputs, variant=variant, out=target, **options, **others)
        assert same_bits(target.cpu(), expected)
        for tensor, values in zip(inputs, kept, strict=True):
            tensor.copy_(values)


def test_out_refuses():
    gate, up, _ = operands(6, 34, dtype=torch.float32)
    x = pack(gate, up, "gate_up")
    bias = torch.zeros(34, requires_grad=True)
    buffer = torch.zeros(6 * 34 + 1)
    shifted, view = (buffer[i : i + 6 * 34].view(6, 34) for i in (1, 0))
    for options, inputs, out, error in (
        ({"limit": 1.0}, (view, up), shifted, ValueError),
        ({"limit": 1.0}, (x,), x[:, 1:35], ValueError),
        ({"limit": 1.0}, (gate, up), torch.zeros(6, 33), ValueError),
        ({"limit": 1.0}, (gate, up), torch.zeros(6, 34).double(), TypeError),
        ({"gate_bias": bias}, (gate, up), torch.zeros(6, 34), RuntimeError),
        ({"beta": bias[0]}, (gate, up), torch.zeros(6, 34), RuntimeError),
    ):
        before = out.clone()
        with pytest.raises(error, match="^out: "):
            fused_acts.swiglu(*inputs, out=out, **options)
        assert same_bits(out, before)


@pytest.mark.parametrize("variant", PARAMETRIC)
def test_numbers_of_any_kind(variant):
    gate, up, _ = operands(4, 33, dtype=torch.float32)
    expected = fused(variant, gate, up, parameter(variant, 2.0)).out
    for two in (2, np.float32(2.0), np.float64(2.0)):
        assert same_bits(fused(variant, gate, up, parameter(variant, two)).out, expected)
    none = fused(variant, gate, up, parameter(variant, None)).out
    assert same_bits(none, fused(variant, gate, up, {}).out)


def test_many_rows_and_columns():
    """Calls of more than one tile each way, at strides that keep them from being one row."""
    wide = random(67, 1500, dtype=torch.float32, seed=1, scale=3.0)
    gate, up = wide[:, 1:1301], wide[:, 150:1450]
    expected = fused_acts.reference.gated(gate.double(), up.double(), variant="swiglu", limit=2.0)
    for one, other in ((gate, up), (gate.contiguous(), up.contiguous())):
        out = fused("swiglu", one, other, {"limit": 2.0}).out
        check(out, expected, 36.0, torch.ones_like(expected))
