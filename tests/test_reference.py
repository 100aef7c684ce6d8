"""The oracle itself, against 50 digits: the other tests are worth what it is worth."""

import inspect

import mpmath
import pytest
import torch
from cases import LAYOUTS, VARIANTS, as_inputs, exact, factors, operands

from fused_acts import reference, tables

mpmath.mp.dps = 50

# Written once more, from the definitions, with a parameter for those that have one.
PARAMETER = 1.625
FUNCTIONS = {
    "identity": lambda x: x,
    "plus_one": lambda x: x + 1,
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "squared_relu": lambda x: max(x, mpmath.mpf(0)) ** 2,
    "leaky_relu": lambda x: x if x > 0 else PARAMETER * x,
    "elu": lambda x: x if x > 0 else PARAMETER * mpmath.expm1(x),
    "tanh": lambda x: mpmath.tanh(x),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "swish": lambda x: x / (1 + mpmath.exp(-PARAMETER * x)),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x: (
        x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))
    ),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(PARAMETER * x)) / PARAMETER,
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
}
POINTS = [sign * x for x in (1e-30, 1e-3, 0.1, 0.5, 1, 2, 3.3, 5, 7.5, 11) for sign in (1, -1)]
FAR_POINTS = [-13.0, -25.0, -37.0, -80.0, -103.0, 30.0, 1e4]
# float64 rounds the argument of the exponential: in a tail of 1e-300 this is 700 * 2^-53.
RELATIVE = 2e-13


def function_of_one(name):
    function = getattr(tables, name)
    parameters = len(inspect.signature(function).parameters) - 1
    return lambda x: function(x, *[PARAMETER] * parameters)


def test_every_function_is_here():
    used = {function for row in tables.VARIANTS.values() for function in (row.f, row.g)}
    used |= {row.f for row in tables.ACTIVATIONS.values()}
    assert {function.__name__ for function in used} == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values(name):
    function = function_of_one(name)
    with mpmath.workdps(700):  # enough for 1 + tanh in its tail
        for point in POINTS + FAR_POINTS:
            truth = FUNCTIONS[name](mpmath.mpf(point))
            result = function(torch.tensor(point, dtype=torch.float64)).item()
            assert abs(result - truth) <= RELATIVE * abs(truth) + 1e-300, point


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives(name):
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(function_of_one(name)(x).sum(), x)
    for point, slope in zip(POINTS, slopes.tolist(), strict=True):
        truth = mpmath.diff(FUNCTIONS[name], point, h=1e-40 if abs(point) < 1e-20 else 1e-20)
        assert abs(slope - truth) <= 1e-13 * max(abs(truth), 2.0**-8), point


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_units_are_products(variant, layout):
    gate, up, grad_out = operands(3, 4, dtype=torch.float64)
    options = {} if layout == "separate" else {"layout": layout}
    out = reference.gated(*as_inputs(gate, up, layout), variant=variant, **options)
    f, g = factors(variant, gate, up, torch.float64)
    assert torch.equal(out, f * g)
    truth = exact(variant, gate, up, grad_out)
    assert torch.equal(truth.out, out)
    assert torch.equal(truth.gate_scale, grad_out * g)
    assert torch.equal(truth.up_scale, grad_out * f)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_units(variant):
    """Those of the reference are those the other tests take for exact, at a limit too."""
    gate, up, _ = operands(20, 10, dtype=torch.float64)
    gate[:5], up[5:10], gate[10:15], up[15:] = 7.0, -7.0, 50.0, -60.0
    truth = exact(variant, gate, up, torch.ones_like(gate))
    inputs = gate.requires_grad_(), up.requires_grad_()
    grads = torch.autograd.grad(reference.gated(*inputs, variant=variant).sum(), inputs)
    assert torch.equal(grads[0], truth.grad_gate) and torch.equal(grads[1], truth.grad_up)


@pytest.mark.parametrize("name", tables.ACTIVATIONS)
def test_activations_are_their_function_of_the_sum(name):
    x, bias, _ = operands(3, 4, dtype=torch.bfloat16)
    row = tables.ACTIVATIONS[name]
    options = {} if row.parameter is None else {row.parameter: torch.linspace(0.3, 2, 4)}
    expected = row.f(x.float() + bias[0].float(), *options.values()).bfloat16()
    assert torch.equal(reference.activation(x, name, bias[0], **options), expected)
    plain = row.f(x.float(), *[row.default][: len(options)]).bfloat16()
    assert torch.equal(reference.activation(x, name), plain)
    with pytest.raises(TypeError, match="^limit: "):
        reference.activation(x, name, limit=1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_results_have_the_dtype_of_the_inputs(dtype):
    gate, up, _ = operands(3, 4, dtype=dtype)
    for variant in VARIANTS:
        out = reference.gated(gate, up, variant=variant)
        wide = reference.gated(gate.double(), up.double(), variant=variant)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), wide, rtol=torch.finfo(dtype).eps * 16, atol=1e-6)
