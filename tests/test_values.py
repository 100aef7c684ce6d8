"""Forward values against the float64 oracle and against torch's own functions."""

import pytest
import torch
import torch.nn.functional as F
from cases import (
    ACTIVATIONS,
    DEVICES,
    DTYPES,
    DTYPES_16,
    FUNCTIONS,
    PRODUCTS,
    RELU_KEEPS_THE_SIGN,
    ROWS,
    VARIANTS,
    default_parameters,
    every_finite,
    exact_forward,
    factors_of,
    forward,
    in_range,
    operands,
    random,
    rows_and_layouts,
    same_bits,
    size_of,
    whole_range,
)
from tolerances import EXACT, MAY_FLUSH, budget, check, check_forward, lost_digits

import fused_acts
from fused_acts import reference

EXACT_VARIANTS = [name for name in VARIANTS if EXACT.issuperset(FUNCTIONS[name])]
EXACT_ACTIVATIONS = [name for name in ACTIVATIONS if FUNCTIONS[name][0] in EXACT]
PRODUCT_VARIANTS = [name for name in VARIANTS if PRODUCTS.intersection(FUNCTIONS[name])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_against_the_oracle(name, layout, dtype, device):
    gate, up, _ = operands(5, 3, 136, dtype=dtype)
    out = forward(name, gate, up, layout, device)
    assert out.dtype == dtype and out.is_contiguous()
    check_forward(name, out, exact_forward(name, gate, up), size=size_of(name, gate))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ROWS)
def test_over_the_whole_range(name, dtype, device):
    gate = whole_range(dtype)[:: 1 if device == "cpu" else 5]
    gate = gate[in_range(name, gate)]
    up = torch.full_like(gate, -3.14159)
    out = forward(name, gate, up, device=device)
    check_forward(name, out, exact_forward(name, gate, up), size=size_of(name, gate))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("variant", ["glu", "swiglu", "quick_geglu", "geglu", "geglu_tanh"])
def test_a_large_up_of_a_tiny_factor(variant, dtype, device):
    """Below 2^-126 f(gate) has digits still, and the product those that it has."""
    tails = {"geglu": (-13.4, -12.5), "geglu_tanh": (-10.5, -9.5), "quick_geglu": (-60, -52)}
    gate = torch.linspace(*tails.get(variant, (-102, -88)), 5000, dtype=torch.float64).to(dtype)
    up = random(5000, dtype=dtype, seed=7, scale=30.0)
    exact = exact_forward(variant, gate, up)
    lost = lost_digits(gate.double(), up.double())
    check_forward(variant, forward(variant, gate, up, device=device), exact, lost)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", EXACT_VARIANTS)
def test_a_product_is_rounded_once(variant, dtype, device):
    """Ties go to even, as in torch's own rounding; half an ulp alone would not tell."""
    gate, up = (random(257, 128, dtype=dtype, seed=seed) for seed in (4, 5))
    gate[0] = 1.0 + torch.arange(128) * torch.finfo(dtype).eps
    up[0] = 1.5  # half of these products lie in the middle between two numbers
    expected = exact_forward(variant, gate, up).to(dtype)
    assert same_bits(forward(variant, gate, up, device=device), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", PRODUCT_VARIANTS)
def test_a_product_of_three_is_that_of_torch(variant, dtype, device):
    """Over the whole range: also where one of its two steps overflows or underflows."""
    gate = torch.cat((whole_range(dtype, sparse=50_000), random(10_000, dtype=dtype, seed=6)))
    for up in (1e30, 3.14159, -1e-30):
        up = torch.full_like(gate, up)
        expected = reference.gated(gate, up, variant=variant)
        assert same_bits(forward(variant, gate, up, device=device), expected)


def torch_function(name):
    """f as torch has it, of x and the parameter."""
    return ROWS[name].eager or ROWS[name].f


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT_ACTIVATIONS)
def test_exact_activations_are_those_of_torch(name, dtype, device):
    x = every_finite(dtype) if dtype in DTYPES_16 else whole_range(dtype, 10_001, 10_000)
    if dtype in MAY_FLUSH:
        x = x[(x == 0) | (x.abs() >= torch.finfo(dtype).smallest_normal)]
    if device == "cuda" or not RELU_KEEPS_THE_SIGN:
        x = x[(x != 0) | ~x.signbit()]
    assert same_bits(forward(name, x, x, device=device), torch_function(name)(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_against_torch(name, dtype):
    row = ROWS[name]
    gate, up, _ = operands(64, 96, dtype=dtype)
    gate.clamp_(-3, 9)  # further down torch's GELUs lose digits even in float64
    up *= 4
    z, w = gate.double(), up.double()
    values = [*default_parameters(name, dtype).values()]
    if name in VARIANTS:
        f, g = factors_of(row, z, w, values, row.limit, torch_function(name))
        expected = f * g
    else:
        expected = torch_function(name)(z, *values)
    check_forward(name, forward(name, gate, up), expected, size=size_of(name, gate))


@pytest.mark.parametrize("dtype", DTYPES)
def test_up_gate_is_the_layout_of_torch_glu(dtype):
    """F.glu gates the second half; most transformer code gates the first."""
    x = random(33, 130, dtype=dtype, seed=6, scale=3.0)
    out = fused_acts.glu(x, layout="up_gate")
    check(out, F.glu(x.double()), budget("glu", dtype))


def test_silu_is_swish():
    assert fused_acts.silu is fused_acts.swish
    x, bias, _ = operands(3, 8, dtype=torch.float32)
    expected = fused_acts.swish(x, bias[0], beta=1.5)
    assert same_bits(fused_acts.activation(x, "silu", bias[0], beta=1.5), expected)
    assert same_bits(fused_acts.nn.Activation("silu")(x), fused_acts.swish(x))
    assert same_bits(reference.activation(x, "silu"), reference.activation(x, "swish"))
