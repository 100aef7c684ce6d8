"""Options that are numbers: parameters of f, limits; with out=, and what is refused."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    DEVICES,
    DTYPES,
    DTYPES_16,
    FUNCTIONS,
    ROWS,
    UNARY,
    VARIANTS,
    as_inputs,
    every_finite,
    operands,
    own_layout,
    pack,
    random,
    rows_and_layouts,
    same_bits,
    size_of,
    to_device,
)
from derivative_cases import of
from option_cases import (
    PARAMETRIC,
    biases,
    check_everything,
    fused,
    numbers_for,
    parameter,
)
from tolerances import FORWARD_FLOOR, FORWARD_ULPS, MAY_FLUSH, check

import fused_acts

WITH_NUMBERS = [name for name in ROWS if numbers_for(name)]
F64 = torch.float64


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(WITH_NUMBERS))
def test_against_the_oracle(name, layout, dtype, device):
    """Of an activation with a bias as well."""
    gate, up, grad_out = operands(3, 5, 67, dtype=dtype)
    for options in numbers_for(name):
        check_everything(name, gate, up, options, grad_out, layout, device)
        if layout == UNARY:
            with_bias = options | biases(name, 67, dtype)
            check_everything(name, gate, up, with_bias, grad_out, layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES_16)
@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_every_finite_gate(name, dtype, device):
    gate = every_finite(dtype)
    up = torch.full_like(gate, -1.7)
    for options in numbers_for(name)[::2]:
        out = fused(name, gate, up, options, device=device).out
        inputs = as_inputs(gate.double(), up.double(), own_layout(name))
        exact = of(name, **options)[1](*inputs)
        if FUNCTIONS[name][0] == "softplus" and dtype in MAY_FLUSH:
            # exp(beta * x) may be flushed to zero before it is divided by a beta below 1, by CUDA
            # and by processors that scale a number in two steps.
            kept = (exact * options["beta"]).abs() >= torch.finfo(dtype).smallest_normal * 2
            out, exact = out[kept], exact[kept]
        size = size_of(name, gate)
        check(
            out, exact, FORWARD_ULPS[dtype], None if size is None else size * FORWARD_FLOOR[dtype]
        )


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


@pytest.mark.parametrize("name", ROWS)
def test_defaults(name):
    """What the signature says is what is computed."""
    gate, up, _ = operands(4, 33, dtype=torch.float32)
    function, inputs = getattr(fused_acts, name), as_inputs(gate, up, own_layout(name))
    own = {
        option: p.default
        for option, p in inspect.signature(function).parameters.items()
        if option not in ("gate", "up", "x", "layout", "out")
    }
    assert same_bits(function(*inputs), function(*inputs, **own))
    row = ROWS[name]
    assert {n: own[n] for n in row.parameters} == row.parameters
    if name in VARIANTS:
        assert ("limit" in own) == row.limits and own.get("limit") == row.limit


def test_layout_of_packed_inputs_is_the_variants_own():
    gate, up, _ = operands(4, 8, dtype=torch.float32)
    for variant in VARIANTS:
        function = getattr(fused_acts, variant)
        (x,) = as_inputs(gate, up, ROWS[variant].layout)
        assert same_bits(function(x), function(gate, up)), variant
    assert ROWS["swiglu_oai"].layout == "interleaved" and ROWS["swiglu"].layout == "gate_up"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "variant, layout", rows_and_layouts([name for name in WITH_NUMBERS if name in VARIANTS])
)
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
    buffer = torch.zeros(6 * 34 + 1)
    shifted, view = (buffer[i : i + 6 * 34].view(6, 34) for i in (1, 0))
    for inputs, out, error in (
        ((view, up), shifted, ValueError),
        ((x,), x[:, 1:35], ValueError),
        ((gate, up), torch.zeros(6, 33), ValueError),
        ((gate, up), torch.zeros(6, 34).double(), TypeError),
    ):
        before = out.clone()
        with pytest.raises(error, match="^out: "):
            fused_acts.swiglu(*inputs, out=out, limit=1.0)
        assert same_bits(out, before)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_numbers_of_any_kind(name):
    gate, up, _ = operands(4, 33, dtype=torch.float32)
    expected = fused(name, gate, up, parameter(name, 2.0)).out
    for two in (2, np.float32(2.0), np.float64(2.0)):
        assert same_bits(fused(name, gate, up, parameter(name, two)).out, expected)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_the_default_is_no_option(name):
    gate, up, _ = operands(7, 67, dtype=torch.float32)
    default = fused(name, gate, up, {}).out
    row = ROWS[name]
    assert same_bits(fused(name, gate, up, row.parameters).out, default)
    if not getattr(row, "caps", False):
        assert same_bits(fused(name, gate, up, parameter(name, None)).out, default)
    assert not same_bits(fused(name, gate, up, parameter(name, 0.6)).out, default)


def test_many_rows_and_columns():
    """Calls of more than one tile each way, at strides that keep them from being one row."""
    wide = random(67, 1500, dtype=torch.float32, seed=1, scale=3.0)
    gate, up = wide[:, 1:1301], wide[:, 150:1450]
    expected = fused_acts.reference.gated(gate.double(), up.double(), variant="swiglu", limit=2.0)
    for one, other in ((gate, up), (gate.contiguous(), up.contiguous())):
        out = fused("swiglu", one, other, {"limit": 2.0}).out
        check(out, expected, 36.0, torch.ones_like(expected))
