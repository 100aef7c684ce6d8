"""Bad options: the right exception, naming the option as it was given."""

import math
import re

import pytest
import torch

import fused_acts

GATE = torch.ones(4, 6)
ROW = torch.ones(6)
# what is wrong: variant, options, exception, what its message begins with, what else is in it
WRONG = {
    "no such": ("swiglu", {"gamma": 1.0}, TypeError, "gamma", ["swiglu", "beta", "limit"]),
    "another's": ("geglu", {"beta": 1.0}, TypeError, "beta", ["geglu", "limit"]),
    "no limit": ("glu", {"limit": 1.0}, TypeError, "limit", ["glu"]),
    "beta: str": ("swiglu", {"beta": "1"}, TypeError, "beta", ["str"]),
    "beta: bool": ("swiglu", {"beta": True}, TypeError, "beta", ["bool"]),
    "alpha: shape": ("elu_glu", {"alpha": ROW[:5]}, ValueError, "alpha", [r"5\b", r"6\b"]),
    "slope: rank": ("preglu", {"slope": GATE}, ValueError, "slope", [r"4, 6"]),
    "beta: dtype": ("swiglu", {"beta": ROW.double()}, TypeError, "beta", ["float64|Double"]),
    "beta: integer": ("swiglu", {"beta": ROW.int()}, TypeError, "beta", ["int32|Int"]),
    "beta: device": ("swiglu", {"beta": ROW.to("meta")}, ValueError, "beta", ["meta", "cpu"]),
    "limit: negative": ("swiglu", {"limit": -1.0}, ValueError, "limit", ["-1"]),
    "limit: nan": ("swiglu", {"limit": math.nan}, ValueError, "limit", ["nan"]),
    "limit: str": ("swiglu", {"limit": "7"}, TypeError, "limit", ["str"]),
    "limit: tensor": ("swiglu", {"limit": ROW}, TypeError, "limit", ["Tensor"]),
    "rounding": ("swiglu", {"rounding": "twice"}, ValueError, "rounding", ["single", "eager"]),
    "gate_bias: float": ("glu", {"gate_bias": 1.0}, TypeError, "gate_bias", ["float", "Tensor"]),
    "gate_bias: shape": ("glu", {"gate_bias": ROW[:1]}, ValueError, "gate_bias", [r"1\b", "6"]),
    "up_bias: rank": ("glu", {"up_bias": GATE}, ValueError, "up_bias", ["4, 6"]),
    "up_bias: dtype": ("glu", {"up_bias": ROW.half()}, TypeError, "up_bias", ["float16|Half"]),
    "up_bias: device": ("glu", {"up_bias": ROW.to("meta")}, ValueError, "up_bias", ["meta"]),
    "bias: width": ("glu", {"bias": torch.ones(10)}, ValueError, "bias", ["10", "12"]),
    "bias: odd": ("glu", {"bias": torch.ones(11)}, ValueError, "bias", ["11"]),
    "bias: rank": ("glu", {"bias": torch.ones(2, 6)}, ValueError, "bias", ["2, 6"]),
    "bias: list": ("glu", {"bias": [1.0]}, TypeError, "bias", ["list"]),
    "bias: twice": ("glu", {"bias": torch.ones(12), "up_bias": ROW}, ValueError, "bias", []),
}


@pytest.mark.parametrize("rounding", ["single", "eager"])
@pytest.mark.parametrize("what", WRONG)
def test_wrong(what, rounding):
    variant, options, error, argument, patterns = WRONG[what]
    options = {"rounding": rounding, **options}
    for requires_grad in (False, True):
        gate = GATE.clone().requires_grad_(requires_grad)
        with pytest.raises(error, match=f"^{argument}: ") as raised:
            fused_acts.gated(gate, GATE, variant=variant, **options)
        assert all(re.search(pattern, str(raised.value)) for pattern in patterns), raised.value
    out = torch.full_like(GATE, 7.25)
    with pytest.raises(error, match=f"^{argument}: "):
        fused_acts.gated(GATE, GATE, variant=variant, out=out, **options)
    assert (out == 7.25).all()


@pytest.mark.parametrize(
    "what", ["beta: dtype", "gate_bias: shape", "bias: width", "up_bias: rank"]
)
def test_wrong_under_compile(what):
    variant, options, _, argument, _ = WRONG[what]
    torch._dynamo.reset()
    compiled = torch.compile(fused_acts.gated, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match=f"{argument}: expected"):
        compiled(GATE, GATE, variant=variant, **options)


@pytest.mark.parametrize("options", [{"limit": 1.0}, {"rounding": "eager"}, {"gate_bias": ROW}])
def test_operands_are_checked_with_options_too(options):
    for gate, up, error in (
        (GATE, GATE[:1], ValueError),
        (GATE, GATE.half(), TypeError),
        (GATE, GATE.to("meta"), ValueError),
        (GATE.int(), GATE.int(), TypeError),
        (torch.ones(4, 7), None, ValueError),
        ([1.0], GATE, TypeError),
        (GATE, 1.0, TypeError),
    ):
        with pytest.raises(error, match="^(gate|up|x): "):
            fused_acts.swiglu(gate, up, **options)
