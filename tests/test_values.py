"""Forward values against the float64 oracle and against torch's own functions."""

import pytest
import torch
import torch.nn.functional as F
from cases import (
    DEVICES,
    DTYPES,
    FUNCTIONS,
    LAYOUTS,
    PRODUCTS,
    VARIANTS,
    default_parameter,
    exact_forward,
    forward,
    in_range,
    operands,
    random,
    same_bits,
)
from tolerances import EXACT, budget, check, check_forward

import fused_acts

EXACT_VARIANTS = [name for name in VARIANTS if EXACT.issuperset(FUNCTIONS[name])]
PRODUCT_VARIANTS = [name for name in VARIANTS if PRODUCTS.intersection(FUNCTIONS[name])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_against_the_oracle(variant, dtype, layout, device):
    gate, up, _ = operands(5, 3, 136, dtype=dtype)
    out = forward(variant, gate, up, layout, device)
    assert out.dtype == dtype and out.is_contiguous()
    check_forward(variant, out, exact_forward(variant, gate, up))


def tails(dtype: torch.dtype) -> torch.Tensor:
    """Gates from the largest numbers down to the subnormals, and densely over the tails."""
    magnitude = torch.logspace(-45, 38.5, 50_000, dtype=torch.float64)
    dense = torch.linspace(-120, 120, 400_001, dtype=torch.float64)
    return torch.cat((magnitude, -magnitude, dense)).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("up", [1.0, -3.14159])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_over_the_whole_range(variant, dtype, up, device):
    gate = tails(dtype)[:: 1 if device == "cpu" else 5]
    gate = gate[in_range(variant, gate)]
    up = torch.full_like(gate, up)
    out = forward(variant, gate, up, device=device)
    check_forward(variant, out, exact_forward(variant, gate, up))


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
    gate = torch.cat((tails(dtype), random(10_000, dtype=dtype, seed=6)))
    for up in (1e30, 3.14159, -1e-30):
        up = torch.full_like(gate, up)
        expected = fused_acts.reference.gated(gate, up, variant=variant)
        assert same_bits(forward(variant, gate, up, device=device), expected)


TORCH = {
    "glu": lambda gate, up: torch.sigmoid(gate) * up,
    "reglu": lambda gate, up: F.relu(gate) * up,
    "geglu": lambda gate, up: F.gelu(gate) * up,
    "geglu_tanh": lambda gate, up: F.gelu(gate, approximate="tanh") * up,
    "swiglu": lambda gate, up, _: F.silu(gate) * up,
    "gtu": lambda gate, up: torch.sigmoid(gate) * torch.tanh(up),
    "tanh_glu": lambda gate, up: torch.tanh(gate) * up,
    "leaky_reglu": lambda gate, up, slope: F.leaky_relu(gate, slope) * up,
    "preglu": lambda gate, up, slope: F.prelu(gate, gate.new_tensor([slope])) * up,
    "elu_glu": lambda gate, up, alpha: F.elu(gate, alpha) * up,
    "squared_reglu": lambda gate, up: F.relu(gate) ** 2 * up,
    "quick_geglu": lambda gate, up, alpha: gate * torch.sigmoid(alpha * gate) * up,
    "glu_relu": lambda gate, up: torch.sigmoid(gate) * F.relu(up),
    "swiglu_oai": lambda gate, up, alpha: (
        gate.clamp(max=7) * torch.sigmoid(alpha * gate.clamp(max=7)) * (up.clamp(-7, 7) + 1)
    ),
}


def test_torch_has_all_but_the_plainest():
    assert TORCH.keys() == set(VARIANTS) - {"bilinear"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", TORCH)
def test_against_torch(variant, dtype, layout):
    gate, up, _ = operands(64, 96, dtype=dtype)
    gate.clamp_(-3, 9)  # further down torch's GELUs lose digits even in float64
    up *= 4
    parameter = default_parameter(variant, dtype).values()
    expected = TORCH[variant](gate.double(), up.double(), *parameter)
    check(forward(variant, gate, up, layout), expected, budget(variant, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_up_gate_is_the_layout_of_torch_glu(dtype):
    """F.glu gates the second half; most transformer code gates the first."""
    x = random(33, 130, dtype=dtype, seed=6, scale=3.0)
    out = fused_acts.glu(x, layout="up_gate")
    check(out, F.glu(x.double()), budget("glu", dtype))
