"""The oracle itself, against 50 digits: the other tests are worth what it is worth."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from cases import (
    ACTIVATIONS,
    ROWS,
    VARIANTS,
    as_inputs,
    exact,
    factors,
    factors_of,
    operands,
    own_layout,
    rows_and_layouts,
)
from derivative_cases import of
from formula_cases import DIGITS, evaluate

from fused_acts import reference, tables

mpmath.mp.dps = 50
F64 = torch.float64

# f and g once more: the formula that a row states, as text, with a parameter other than 1.
PARAMETER = 1.625
POINTS = [sign * x for x in (1e-30, 1e-3, 0.1, 0.5, 1, 2, 3.3, 5, 7.5, 11) for sign in (1, -1)]
FAR_POINTS = [-13.0, -25.0, -37.0, -80.0, -103.0, 30.0, 1e4]
UPS = (0.75, -3.5, 12.0, -0.125)
# float64 rounds the argument of the exponential: in a tail of 1e-300 this is 700 * 2^-53.
RELATIVE = 2e-13
SLOPE = 1e-13  # of a gradient, at least at 2^-8 of the factor that it is multiplied by


def numbers_of(name):
    """The options that the formula names, as numbers."""
    row = ROWS[name]
    numbers = dict.fromkeys(row.parameters, PARAMETER)
    return numbers | ({"limit": row.limit} if getattr(row, "limit", None) is not None else {})


def formula(name):
    """Of gate and up, or of x and of what is ignored."""
    row, numbers = ROWS[name], numbers_of(name)
    names = ("x", "_") if name in ACTIVATIONS else ("gate", "up")
    return lambda *values: evaluate(
        row.formula, DIGITS, **dict(zip(names, values, strict=True)), **numbers
    )


@pytest.mark.parametrize("name", ROWS)
def test_values(name):
    function, written = of(name, **numbers_of(name))[1], formula(name)
    with mpmath.workdps(700):  # enough for 1 + tanh in its tail
        for gate in POINTS + FAR_POINTS:
            for up in UPS if name in VARIANTS else UPS[:1]:
                truth = written(mpmath.mpf(gate), mpmath.mpf(up))
                inputs = (torch.tensor(gate, dtype=F64), torch.tensor(up, dtype=F64))
                result = function(*as_inputs(*inputs, own_layout(name))).item()
                assert abs(result - truth) <= RELATIVE * abs(truth) + 1e-300, (gate, up)


@pytest.mark.parametrize("name", ROWS)
def test_derivatives(name):
    """Along each operand, at one of the other."""
    function, written = of(name, **numbers_of(name))[1], formula(name)
    x = torch.tensor(POINTS, dtype=F64)
    other = 0.75
    for by in range(1 if name in ACTIVATIONS else 2):
        inputs = [torch.full_like(x, other), torch.full_like(x, other)]
        inputs[by] = x.clone().requires_grad_()
        out = function(*as_inputs(*inputs, own_layout(name)))
        (slopes,) = torch.autograd.grad(out.sum(), inputs[by])
        for point, slope in zip(POINTS, slopes.tolist(), strict=True):
            step = 1e-40 if abs(point) < 1e-20 else 1e-20

            def along(t, by=by):
                return written(t, other) if by == 0 else written(other, t)

            truth = mpmath.diff(along, mpmath.mpf(point), h=step)
            assert abs(slope - truth) <= SLOPE * max(abs(truth), 2.0**-8), point


@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_units_are_products(name, layout):
    gate, up, grad_out = operands(3, 4, dtype=F64)
    out = of(name, layout=layout)[1](*as_inputs(gate, up, layout))
    f, g = factors(name, gate, up, F64)
    assert torch.equal(out, f * g)
    truth = exact(name, gate, up, grad_out)
    assert torch.equal(truth.out, out)
    assert torch.equal(truth.gate_scale, grad_out * g)
    assert truth.up_scale is None or torch.equal(truth.up_scale, grad_out * f)


@pytest.mark.parametrize("name", ROWS)
def test_gradients_of_units(name):
    """Those of the reference are those the other tests take for exact, at a limit too."""
    gate, up, _ = operands(20, 10, dtype=F64)
    gate[:5], up[5:10], gate[10:15], up[15:] = 7.0, -7.0, 50.0, -60.0
    truth = exact(name, gate, up, torch.ones_like(gate))
    inputs = as_inputs(gate.requires_grad_(), up.requires_grad_(), own_layout(name))
    grads = torch.autograd.grad(of(name)[1](*inputs).sum(), inputs)
    assert all(map(torch.equal, grads, (truth.grad_gate, truth.grad_up)))


@pytest.mark.parametrize("name", ROWS)
def test_options_are_where_they_belong(name):
    """Biases are added first, a limit comes next, and all is rounded once."""
    gate, up, _ = operands(3, 4, dtype=torch.bfloat16)
    row = ROWS[name]
    one, other = torch.linspace(-1, 1, 4), torch.linspace(2, -2, 4)
    options = dict.fromkeys(row.parameters, torch.linspace(0.3, 2, 4))
    value = list(options.values())
    z, w = gate.float() + one, up.float() + other
    if name in ACTIVATIONS:
        out = reference.activation(gate, name, one, **options)
        assert torch.equal(out, row.f(z, *value).bfloat16())
    else:
        if row.limits:
            options["limit"] = 0.75
        f, g = factors_of(row, z, w, value, options.get("limit"))
        expected = (f * g).bfloat16()
        options["variant"] = name
        out = reference.gated(gate, up, gate_bias=one, up_bias=other, **options)
        assert torch.equal(out, expected)
        both = torch.cat((one, other))
        assert torch.equal(reference.gated(gate, up, bias=both, **options), expected)
    with pytest.raises(TypeError, match="^unknown: "):
        of(name)[1](*as_inputs(gate, up, own_layout(name)), unknown=1.0)


@pytest.mark.parametrize(
    "name, value",
    [(name, [*tables.ACTIVATIONS[name].parameters.values()]) for name in ACTIVATIONS]
    + [
        (name, [v] * len(ROWS[name].parameters))
        for name in ACTIVATIONS
        if ROWS[name].parameters
        for v in (0.7, 1.9)
    ],
)
def test_what_torch_has_is_f(name, value):
    """Value, derivative and second derivative, at 0 and at its sides too."""
    row = ROWS[name]
    theirs = row.eager or row.f
    if name == "hardsigmoid":  # torch's derivative is a float32, and has none itself
        theirs = lambda x: F.relu6(x + 3) / 6  # noqa: E731
    x = torch.cat((torch.linspace(-3, 9, 1001, dtype=F64), torch.zeros(1, dtype=F64)))
    results = []
    for function in (row.f, theirs):
        leaf = x.clone().requires_grad_()
        out = function(leaf, *value)
        (grad,) = torch.autograd.grad(out.sum(), leaf, create_graph=True)
        second = torch.zeros_like(x)
        if grad.requires_grad:
            (second,) = torch.autograd.grad(grad.sum(), leaf, materialize_grads=True)
        results.append((out.detach(), grad.detach(), second))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)


def test_what_a_variant_has_of_torch_is_what_its_activation_has():
    has = {row.f: row.eager for row in tables.ACTIVATIONS.values()}
    for row in tables.VARIANTS.values():
        assert has.get(row.f, row.eager) is row.eager


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_results_have_the_dtype_of_the_inputs(dtype):
    gate, up, _ = operands(3, 4, dtype=dtype)
    for name in ROWS:
        inputs = as_inputs(gate, up, own_layout(name))
        out = of(name)[1](*inputs)
        wide = of(name)[1](*(tensor.double() for tensor in inputs))
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), wide, rtol=torch.finfo(dtype).eps * 16, atol=1e-6)


def test_no_limit_is_an_infinite_one():
    gate, up, _ = operands(3, 4, dtype=F64)
    results = [reference.gated(9 * gate, 9 * up, limit=limit) for limit in (None, math.inf, 1e9)]
    assert torch.equal(*results[:2]) and torch.equal(*results[1:])
