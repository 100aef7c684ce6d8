"""Units of one's own: what they compute, and that they are what the units of the library are."""

import inspect

import pytest
import torch
from cases import DTYPES
from define_cases import UNITS, bent, define, exported, forget, sinlu
from subprocess_runner import run_alone
from tolerances import CLOSE_THIRD, close

import fused_acts
from fused_acts import functional, nn
from fused_acts._definitions import build, trial

F64 = torch.float64


@pytest.fixture(scope="module")
def units(own_units):
    """{name: function}"""
    yield {name: define(name) for name in UNITS}
    forget(*UNITS)


def operands(name, dtype=F64, requires_grad=True):
    generator = torch.Generator().manual_seed(1)
    count = 1 if UNITS[name].get("g", "") is None else 2
    tensors = [torch.randn(3, 37, generator=generator, dtype=F64) * 2 for _ in range(count)]
    return [tensor.to(dtype).requires_grad_(requires_grad) for tensor in tensors]


def composed(name, x, up=None, **parameters):
    unit = UNITS[name]
    values = unit.get("parameters", {}) | parameters
    out = unit["reference"](x, *values.values())
    return out if up is None else out * (up.tanh() if unit.get("g") == "tanh" else up)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNITS)
def test_values(units, name, dtype):
    tensors = operands(name, dtype, requires_grad=False)
    exact = composed(name, *(tensor.double() for tensor in tensors))
    torch.testing.assert_close(units[name](*tensors), exact.to(dtype))


@pytest.mark.parametrize("name", UNITS)
def test_three_orders_of_derivative(units, name):
    ours, torchs = operands(name), operands(name)
    outs = units[name](*ours), composed(name, *torchs)
    close(*outs)
    for order in range(3):
        outs = tuple(
            torch.autograd.grad(out.square().sum(), tensors, create_graph=True)
            for out, tensors in zip(outs, (ours, torchs), strict=True)
        )
        for one, other in zip(*outs, strict=True):
            torch.testing.assert_close(one, other, **CLOSE_THIRD)
        outs = tuple(sum(grads) for grads in outs)
        assert order or outs[0].requires_grad


@pytest.mark.parametrize("name", ["sinlu_glu", "bent_glu"])
def test_learned_parameters(units, name):
    values = UNITS[name]["parameters"]
    ours, torchs = (
        {p: torch.full((37,), v, dtype=F64, requires_grad=True) for p, v in values.items()}
        for _ in range(2)
    )
    tensors = operands(name)
    outs = units[name](*tensors, **ours), composed(name, *tensors, **torchs)
    close(*outs)
    for out, parameters in zip(outs, (ours, torchs), strict=True):
        out.sum().backward(inputs=[*parameters.values()])
    for parameter in values:
        close(ours[parameter].grad, torchs[parameter].grad)


def test_other_numbers_and_options(units):
    gate, up = operands("sinlu_glu", requires_grad=False)
    bias = torch.linspace(-1, 1, 37, dtype=F64)
    out = units["sinlu_glu"](gate, up, a=2.0, gate_bias=bias, weight=3.0)
    close(out, 3.0 * sinlu(gate + bias, 2.0) * up)
    x = torch.cat([up, gate], -1)
    out = fused_acts.gated(x, variant="sinlu_glu", layout="up_gate", limit=1.0)
    close(out, sinlu(gate.clamp(max=1.0), 0.125) * up.clamp(-1.0, 1.0))


def test_it_is_among_the_others(units):
    assert fused_acts.variants()[-2:] == ("sinlu_glu", "bent_glu")
    assert fused_acts.activations()[-1] == "logish"
    assert functional.FUNCTIONS["logish"] is units["logish"]
    assert inspect.signature(units["sinlu_glu"]).parameters["a"].default == 0.125
    x = operands("logish", requires_grad=False)[0]
    close(fused_acts.activation(x, "logish"), units["logish"](x))
    close(fused_acts.reference.activation(x, "logish"), units["logish"](x))


def test_a_block_learns(units):
    torch.manual_seed(0)
    block = nn.GatedFFN(16, 24, variant="sinlu_glu", dtype=F64)
    x = torch.randn(5, 16, dtype=F64)
    gate, up = (x @ block.gate_up_proj.weight.T).chunk(2, -1)
    close(block(x), (sinlu(gate, 0.125) * up) @ block.down_proj.weight.T)
    block(x).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in block.parameters())


def test_compiled_and_exported(units, tmp_path, fresh_dynamo):
    class Model(torch.nn.Module):
        def forward(self, x):
            return fused_acts.gated(x, variant="sinlu_glu")

    x = torch.randn(3, 8)
    expected = Model()(x)
    assert torch.equal(torch.compile(Model(), fullgraph=True)(x), expected)
    path = str(tmp_path / "program.pt2")
    torch.export.save(torch.export.export(Model(), (x,)), path)
    torch.save((x, expected), f"{path}.pt")
    run_alone(exported, path, True)
    run_alone(exported, path, False)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_inside_a_compiled_function(units, fresh_dynamo):
    def function(x):
        return define("logish", name="later")(x) + 1

    x = torch.randn(3, 8)
    assert torch.equal(torch.compile(function, backend="eager")(x), units["logish"](x) + 1)
    forget("later")


def test_a_reference_that_defines_another(units):
    def reference(x):
        return define("logish", name="inner")(x)

    define("logish", name="outer", reference=reference)
    forget("outer", "inner")


def test_the_same_again_is_the_same(units):
    assert define("sinlu_glu") is units["sinlu_glu"]
    with pytest.raises(ValueError, match=r"sinlu_glu is defined in this process already.*0\.25"):
        define("sinlu_glu", parameters={"a": 0.25})
    with pytest.raises(ValueError, match="reference: sinlu_glu differs"):
        define("sinlu_glu", reference=lambda x, a: sinlu(x, a) + 1)
    assert units["sinlu_glu"].definition.reference.function is sinlu
    restore, (_, *others) = units["sinlu_glu"].definition.__reduce__()
    with pytest.raises(ValueError, match="logish is defined in this process already"):
        restore("logish", *others)


@pytest.mark.parametrize("name", ["softmax_glu", "maxout", "gated", "nn", "__init__", "_mine"])
def test_names_that_no_unit_can_have(name):
    with pytest.raises(ValueError, match="name: (the library has a|expected an identifier)"):
        define("sinlu_glu", name=name)


@pytest.mark.parametrize("name", ["weight", "limit", "layout", "offs", "training", "half"])
def test_parameters_named_as_an_option(name, monkeypatch):
    monkeypatch.delattr(build, "library")
    with pytest.raises(ValueError, match=f"parameters: {name} has another meaning"):
        fused_acts.define("other", f"x * {name}", parameters={name: 1.0}, reference=torch.mul)


@pytest.mark.parametrize(
    ("change", "what", "dtype"),
    [
        (lambda x, a: sinlu(x, a) + 0.001, "the value", "bfloat16"),
        (lambda x, a: sinlu(x, a) + (x - x.detach()) * 0.01, "the derivative by x", "bfloat16"),
        (lambda x, a: sinlu(x, a.detach() if hasattr(a, "detach") else a), "by a", "bfloat16"),
    ],
)
def test_a_wrong_reference(units, change, what, dtype):
    with pytest.raises(
        ValueError, match=rf"(?s)differs .* {dtype} on cpu.*what .*{what}.* x .*got"
    ):
        define("sinlu_glu", name="wrong_glu", reference=change)
    assert "wrong_glu" not in fused_acts.variants()


def test_the_trial_goes_from_end_to_end():
    x = trial.numbers_of(torch.bfloat16)
    assert len(x.view(torch.int16).unique()) == 2**16
    for dtype in (torch.float32, torch.float64):
        wide = trial.numbers_of(dtype).abs()
        assert wide[wide > 0].min() < 1e-39 and wide[wide.isfinite()].max() > 1e38


def test_budgets_hold_for_the_table():
    """Those of a trial are no narrower than the library itself is."""
    for name in ("swiglu", "geglu", "quick_gelu", "softsign"):
        index = fused_acts._call.ROW_INDEX[name]
        assert not [w for w in trial.differences(index, fused_acts.tables.ROWS[index]) if w.beyond]


def test_bent_has_the_kink_of_its_reference(units):
    x = torch.zeros(1, dtype=F64, requires_grad=True)
    out = units["bent_glu"](x, torch.ones(1, dtype=F64))
    (slope,) = torch.autograd.grad(out, x)
    (expected,) = torch.autograd.grad(bent(x, 0.5, 1.5) * torch.ones(1, dtype=F64).tanh(), x)
    close(slope, expected)
