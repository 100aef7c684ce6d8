"""The oracle itself, against 50 digits: the other tests are worth what it is worth."""

import mpmath
import pytest
import torch
from cases import LAYOUTS, VARIANTS, as_inputs, exact, operands

from fused_acts import reference

mpmath.mp.dps = 50

# Written once more, from the definitions.
FUNCTIONS = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "swish": lambda x: x / (1 + mpmath.exp(-x)),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x: (
        x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))
    ),
}
POINTS = [sign * x for x in (1e-30, 1e-3, 0.1, 0.5, 1, 2, 3.3, 5, 7.5, 11) for sign in (1, -1)]
FAR_POINTS = [-13.0, -25.0, -37.0, -80.0, -103.0, 30.0, 1e4]
# float64 rounds the argument of the exponential: in a tail of 1e-300 this is 700 * 2^-53.
RELATIVE = 2e-13


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values(name):
    function = getattr(reference, name)
    with mpmath.workdps(700):  # enough for 1 + tanh in its tail
        for point in POINTS + FAR_POINTS:
            truth = FUNCTIONS[name](mpmath.mpf(point))
            result = function(torch.tensor(point, dtype=torch.float64)).item()
            assert abs(result - truth) <= RELATIVE * abs(truth) + 1e-300, point


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives(name):
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(getattr(reference, name)(x).sum(), x)
    for point, slope in zip(POINTS, slopes.tolist(), strict=True):
        truth = mpmath.diff(FUNCTIONS[name], point, h=1e-40 if abs(point) < 1e-20 else 1e-20)
        assert abs(slope - truth) <= 1e-13 * max(abs(truth), 2.0**-8), point


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_units_are_products(variant, layout):
    gate, up, grad_out = operands(3, 4, dtype=torch.float64)
    options = {} if layout == "separate" else {"layout": layout}
    out = reference.gated(*as_inputs(gate, up, layout), variant=variant, **options)
    f, g, *_ = reference.VARIANTS[variant]
    assert torch.equal(out, f(gate) * g(up))
    scales = exact(variant, gate, up, grad_out)
    assert torch.equal(scales.gate_scale, grad_out * g(up))
    assert torch.equal(scales.up_scale, grad_out * f(gate))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_results_have_the_dtype_of_the_inputs(dtype):
    gate, up, _ = operands(3, 4, dtype=dtype)
    for variant in VARIANTS:
        out = reference.gated(gate, up, variant=variant)
        wide = reference.gated(gate.double(), up.double(), variant=variant)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), wide, rtol=torch.finfo(dtype).eps * 16, atol=1e-6)
