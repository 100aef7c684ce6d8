"""The two tables of activations, in C++ and in Python, what is made from them, and bad input."""

import inspect
import math
import re
from pathlib import Path

import pytest
import torch
from activation_cases import ACTIVATIONS, ALONE, FUNCTION_OF, INDEX, PARAMETRIC, ROWS, parameter
from cases import operands, same_bits

import fused_acts
from fused_acts import _C, options, reference

ROOT = Path(__file__).resolve().parent.parent
OPS = torch.ops.fused_acts


def test_the_tables_agree():
    python = [(name, row.f.__name__) for name, row in reference.ACTIVATIONS.items()]
    assert _C.activations() == python
    assert fused_acts.activations() == tuple(name for name, _ in _C.activations())
    assert not set(ACTIVATIONS) & set(fused_acts.variants())


def test_the_index_is_that_of_the_operators():
    x, _, _ = operands(3, 8, dtype=torch.float32)
    for name in ACTIVATIONS:
        call = options.parse_activation(name, None, {}).call
        assert (call.variant, call.layout) == (INDEX[name], ALONE)
        numbers = (call.scalar, call.limit, INDEX[name], ALONE)
        out = OPS.glu_forward_options(x, None, None, None, None, *numbers)
        assert same_bits(out, fused_acts.activation(x, name))
        if call.plain:
            assert same_bits(OPS.glu_forward(x, None, INDEX[name], ALONE), out)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_function_for_each(name):
    x, bias, _ = operands(3, 8, dtype=torch.float32)
    function = getattr(fused_acts, name)
    assert same_bits(function(x), fused_acts.activation(x, name))
    assert same_bits(function(x, bias[0]), fused_acts.activation(x, name, bias[0]))
    assert same_bits(function(x, bias=bias[0]), fused_acts.activation(x, name, bias=bias[0]))
    assert name in fused_acts.__all__


def test_silu_is_swish():
    x, bias, _ = operands(3, 8, dtype=torch.float32)
    expected = fused_acts.swish(x, bias[0], beta=1.5)
    assert same_bits(fused_acts.silu(x, bias[0], beta=1.5), expected)
    assert same_bits(fused_acts.activation(x, "silu", bias[0], beta=1.5), expected)
    assert same_bits(fused_acts.nn.Activation("silu")(x), fused_acts.swish(x))
    assert same_bits(reference.activation(x, "silu"), reference.activation(x, "swish"))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_signatures_are_alike(name):
    """`activation` takes the parameters of them all, each one's function its own, by name."""

    def signature(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    row = ROWS[name]
    common = signature(fused_acts.activation)
    assert [each[0] for each in common] == ["x", "name", "bias", "out", "given"]
    expected = [each for each in common if each[0] not in ("name", "given")]
    if row.parameter:
        expected.append((row.parameter, inspect.Parameter.KEYWORD_ONLY, row.default))
    assert signature(getattr(fused_acts, name)) == expected


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_docstrings_hold_formula_shapes_errors_and_source(name):
    text = getattr(fused_acts, name).__doc__
    assert text.startswith(f"{name}(x) = {ROWS[name].formula}\n") and ROWS[name].source in text
    for expected in ("[..., cols]", "float16", "TypeError", "ValueError"):
        assert expected in text


def test_one_activation_is_a_functor_a_row_and_a_row():
    """Everything else iterates over the tables: no other file of the library has the names."""
    sources = [*ROOT.glob("csrc/**/*"), *ROOT.glob("fused_acts/**/*.py")]
    allowed = ("activations.h", "variants.h", "tables.py")
    # Where other libraries' names and functions of mathematics are.
    exempt = {"nn/activations.py", "integrations", "real_math.h"}
    names = {name for name in (*ACTIVATIONS, *FUNCTION_OF.values()) if not hasattr(math, name)}
    names -= {"sigmoid", "relu", "swish", "gelu", "elu"}  # words of comments and of formulas
    assert {"leaky_relu", "prelu", "squared_relu", "quick_gelu", "softplus", "mish"} <= names
    pattern = re.compile(rf"(?<![\w.])({'|'.join(names)})(?!\w)")
    found = {name: set() for name in allowed}
    for path in sources:
        readable = path.suffix in (".h", ".cpp", ".cu", ".cuh", ".py")
        if readable and not any(part in str(path) for part in exempt):
            here = set(pattern.findall(path.read_text(encoding="utf-8")))
            assert path.name in allowed or not here, (path, here)
            found.get(path.name, set()).update(here)
    assert found["variants.h"] >= names & set(ACTIVATIONS) <= found["tables.py"]
    assert found["activations.h"] >= names & set(FUNCTION_OF.values())


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
    for other in {row.parameter for row in ROWS.values() if row.parameter} - {ROWS[name].parameter}:
        with pytest.raises(TypeError, match=f"^{other}: "):
            getattr(fused_acts, name)(X, **{other: 0.5})
    getattr(fused_acts, name)(X, **parameter(name, 0.5))


def operators_called_wrongly():
    x, up, grad_out = operands(4, 6, dtype=torch.float32)
    gelu = INDEX["gelu"]
    nothing = (None, None, None, 1.0, float("inf"))
    return {
        "up": (lambda: OPS.glu_forward(x, up, gelu, ALONE), "up"),
        "layout": (lambda: OPS.glu_forward(x, None, gelu, 0), "layout"),
        "layout of a variant": (lambda: OPS.glu_forward(x, None, 0, ALONE), "layout"),
        "variant": (lambda: OPS.glu_forward(x, None, 99, ALONE), "variant"),
        "two tensors": (lambda: OPS.glu_backward(grad_out, x, up, gelu, True, True), "layout"),
        "grad_out": (lambda: OPS.glu_backward_packed(grad_out[:, 1:], x, gelu, ALONE), "grad_out"),
        "options": (lambda: OPS.glu_forward_options(x, up, *nothing, gelu, ALONE), "up"),
    }


@pytest.mark.parametrize("what", operators_called_wrongly())
def test_operators_check_for_themselves(what):
    call, argument = operators_called_wrongly()[what]
    with pytest.raises(ValueError, match=f"^{argument}: "):
        call()
