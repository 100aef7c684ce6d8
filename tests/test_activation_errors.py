"""Bad calls of activations: the right exception, naming the argument as it was given."""

import re

import pytest
import torch
from cases import ACTIVATIONS, ROWS, as_inputs, own_layout
from option_cases import PARAMETRIC, parameter

import fused_acts

X = torch.ones(4, 6)
ROW = torch.ones(6)
# what is wrong: name, x, options, exception, the argument, what else its message holds
WRONG = {
    "name": ("swich", X, {}, ValueError, "name", ["'swich'", *ACTIVATIONS]),
    "a variant": ("swiglu", X, {}, ValueError, "name", ["'swiglu'"]),
    "no name": (None, X, {}, ValueError, "name", ["None"]),
    "a list of names": ([], X, {}, ValueError, "name", [r"\[\]"]),
    "x: list": ("gelu", [1.0], {}, TypeError, "x", ["list", "Tensor"]),
    "x: None": ("gelu", None, {}, TypeError, "x", ["NoneType", "Tensor"]),
    "x: integer": ("gelu", X.int(), {}, TypeError, "x", ["int32|Int", "float32|Float"]),
    "x: boolean": ("elu", X.bool(), {}, TypeError, "x", ["bool|Bool"]),
    "x: complex": ("gelu", X.cfloat(), {}, TypeError, "x", ["complex64|ComplexFloat"]),
    "x: 0-d": ("gelu", torch.ones(()), {}, ValueError, "x", ["0-d"]),
    "x: 0-d, options": ("elu", torch.ones(()), {"alpha": 2.0}, ValueError, "x", ["0-d"]),
    "x: integer, bias": ("gelu", X.int(), {"bias": ROW}, TypeError, "x", ["int32|Int"]),
    "x: list, bias": ("gelu", [1.0], {"bias": ROW}, TypeError, "x", ["list", "Tensor"]),
    "bias: float": ("gelu", X, {"bias": 1.0}, TypeError, "bias", ["float", "Tensor"]),
    "bias: shape": ("gelu", X, {"bias": ROW[:5]}, ValueError, "bias", [r"5\b", r"6\b"]),
    "bias: single": ("gelu", X, {"bias": ROW[:1]}, ValueError, "bias", [r"1\b", r"6\b"]),
    "bias: of rows": ("gelu", X, {"bias": ROW[:4]}, ValueError, "bias", [r"4\b", r"6\b"]),
    "bias: rank": ("gelu", X, {"bias": X}, ValueError, "bias", ["4, 6"]),
    "bias: dtype": ("gelu", X, {"bias": ROW.half()}, TypeError, "bias", ["float16|Half"]),
    "bias: device": ("gelu", X, {"bias": ROW.to("meta")}, ValueError, "bias", ["meta", "cpu"]),
    "no such": ("gelu", X, {"beta": 1.0}, TypeError, "beta", ["gelu"]),
    "another's": ("elu", X, {"slope": 1.0}, TypeError, "slope", ["elu", "alpha"]),
    "gate's": ("relu", X, {"limit": 1.0}, TypeError, "limit", ["relu"]),
    "alpha: str": ("elu", X, {"alpha": "1"}, TypeError, "alpha", ["str"]),
    "alpha: bool": ("elu", X, {"alpha": True}, TypeError, "alpha", ["bool"]),
    "slope: shape": ("prelu", X, {"slope": ROW[:5]}, ValueError, "slope", [r"5\b", r"6\b"]),
    "slope: rank": ("prelu", X, {"slope": X}, ValueError, "slope", ["4, 6"]),
    "beta: dtype": ("swish", X, {"beta": ROW.double()}, TypeError, "beta", ["float64|Double"]),
    "beta: integer": ("swish", X, {"beta": ROW.int()}, TypeError, "beta", ["int32|Int"]),
    "beta: device": ("swish", X, {"beta": ROW.to("meta")}, ValueError, "beta", ["meta"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong(what):
    name, x, given, error, argument, patterns = WRONG[what]
    differentiable = isinstance(x, torch.Tensor) and x.is_floating_point()
    for requires_grad in (False, True)[: 1 + differentiable]:
        leaf = x.clone().requires_grad_() if requires_grad else x
        with pytest.raises(error, match=f"^{argument}: ") as raised:
            fused_acts.activation(leaf, name, **given)
        assert all(re.search(pattern, str(raised.value)) for pattern in patterns), raised.value
    out = torch.full_like(X, 7.25)
    with pytest.raises(error, match=f"^{argument}: "):
        fused_acts.activation(x, name, out=out, **given)
    assert (out == 7.25).all()


@pytest.mark.parametrize("what", ["x: integer", "bias: shape", "bias: dtype", "beta: dtype"])
def test_wrong_under_compile(what):
    name, x, given, _, argument, _ = WRONG[what]
    torch._dynamo.reset()
    compiled = torch.compile(fused_acts.activation, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match=f"{argument}: expected"):
        compiled(x, name, **given)


def test_out_and_parameters_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        fused_acts.gelu(X, ROW, torch.empty_like(X))
    with pytest.raises(TypeError, match="positional"):
        fused_acts.elu(X, None, 1.5)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_each_takes_its_own_parameter(name):
    inputs = as_inputs(X, X, own_layout(name))
    for other in {p for n in PARAMETRIC for p in ROWS[n].parameters} - {*ROWS[name].parameters}:
        with pytest.raises(TypeError, match=f"^{other}: "):
            getattr(fused_acts, name)(*inputs, **{other: 0.5})
    getattr(fused_acts, name)(*inputs, **parameter(name, 0.5))
