"""Bad input: the right exception, naming the argument, what it was and what was expected."""

import re

import pytest
import torch
from cases import PACKED, VARIANTS, operands, same_bits

import fused_acts

F32 = torch.float32
GATE = torch.ones(4, 6)
ON_META = torch.ones(4, 6, device="meta")

# what is wrong: (arguments, options, exception, patterns that its message holds)
# Dtypes go by their names in Python or in C++: float32, Float.
WRONG = {
    "shapes": ((GATE, torch.ones(4, 5)), {}, ValueError, ["up", r"\[4, 5\]", r"\[4, 6\]"]),
    "rows": ((GATE, torch.ones(3, 6)), {}, ValueError, ["up", r"\[3, 6\]", r"\[4, 6\]"]),
    "ranks": ((GATE, torch.ones(1, 4, 6)), {}, ValueError, ["up", r"\[1, 4, 6\]", r"\[4, 6\]"]),
    "broadcast": ((GATE, torch.ones(1, 6)), {}, ValueError, ["up", r"\[1, 6\]", r"\[4, 6\]"]),
    "one number": ((GATE, torch.ones(())), {}, ValueError, ["up", r"\[\]", r"\[4, 6\]"]),
    "dtypes": ((GATE, GATE.half()), {}, TypeError, ["up", "float16|Half", "float32|Float"]),
    "devices": ((GATE, ON_META), {}, ValueError, ["up", "meta", "cpu"]),
    "integers": ((GATE.int(), GATE.int()), {}, TypeError, ["gate", "int32|Int", "float32|Float"]),
    "booleans": ((GATE.bool(), GATE.bool()), {}, TypeError, ["gate", "bool|Bool", "float32|Float"]),
    "complex": (
        (GATE.cfloat(), GATE.cfloat()),
        {},
        TypeError,
        ["gate", "complex64|ComplexFloat", "float32|Float"],
    ),
    "integer up": ((GATE, GATE.long()), {}, TypeError, ["up", "int64|Long", "float32|Float"]),
    "packed integers": ((GATE.int(),), {}, TypeError, ["int32|Int", "float32|Float"]),
    "float8": (
        (GATE.to(torch.float8_e4m3fn),),
        {},
        TypeError,
        ["got .+", "float32|Float"],
    ),
    "float8 up": ((GATE, GATE.to(torch.float8_e5m2)), {}, TypeError, ["up", "float8_e5m2"]),
    "sparse": ((GATE.to_sparse(), GATE), {}, TypeError, ["gate", "sparse_coo", "strided"]),
    "sparse up": ((GATE, GATE.to_sparse()), {}, TypeError, ["up", "sparse_coo", "strided"]),
    "sparse packed": ((GATE.to_sparse_csr(),), {}, TypeError, ["x", "sparse_csr", "strided"]),
    "mkldnn": ((GATE.to_mkldnn(), GATE), {}, TypeError, ["gate", "_mkldnn", "strided"]),
    "odd width": ((torch.ones(4, 7),), {}, ValueError, ["even", r"\[4, 7\]"]),
    "0-d": ((torch.ones(()), torch.ones(())), {}, ValueError, ["gate", "0-d"]),
    "0-d packed": ((torch.ones(()),), {}, ValueError, ["0-d"]),
    "variant": ((GATE,), {"variant": "swigelu"}, ValueError, ["variant", "'swigelu'", *VARIANTS]),
    "nearly": ((GATE,), {"variant": "swigl"}, ValueError, ["variant", "did you mean swiglu"]),
    "no variant": ((GATE,), {"variant": None}, ValueError, ["variant", "None", *VARIANTS]),
    "layout": ((GATE,), {"layout": "up-gate"}, ValueError, ["layout", "'up-gate'", *PACKED]),
    "layout of two": (
        (GATE, GATE),
        {"layout": "interleaved"},
        ValueError,
        ["layout", "'interleaved'"],
    ),
    "gate: list": (([1.0], GATE), {}, TypeError, ["gate", "list", "Tensor"]),
    "gate: None": ((None, GATE), {}, TypeError, ["gate", "NoneType", "Tensor"]),
    "up: float": ((GATE, 1.0), {}, TypeError, ["up", "float", "Tensor"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_message(what):
    arguments, options, error, patterns = WRONG[what]
    with pytest.raises(error) as raised:
        fused_acts.gated(*arguments, **options)
    missing = [pattern for pattern in patterns if not re.search(pattern, str(raised.value))]
    assert not missing, f"{missing} not in {raised.value}"


@pytest.mark.parametrize("what", [n for n in WRONG if "variant" not in WRONG[n][1]])
def test_with_grad_it_is_the_same_error(what):
    arguments, options, error, patterns = WRONG[what]
    arguments = [
        tensor.detach().clone().requires_grad_()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        else tensor
        for tensor in arguments
    ]
    with pytest.raises(error) as raised:
        getattr(fused_acts, VARIANTS[0])(*arguments, **options)
    assert all(re.search(pattern, str(raised.value)) for pattern in patterns)


@pytest.mark.parametrize("what", [n for n in WRONG if "variant" not in WRONG[n][1]])
def test_out_is_left_alone(what):
    arguments, options, error, _ = WRONG[what]
    out = torch.full((4, 6), 7.25)
    with pytest.raises(error):
        fused_acts.gated(*arguments, **options, out=out)
    assert (out == 7.25).all()


@pytest.mark.parametrize(
    "what", ["shapes", "ranks", "dtypes", "integers", "packed integers", "odd width", "0-d"]
)
def test_under_compile_it_is_an_error_too(what):
    arguments, options, _, _ = WRONG[what]
    torch._dynamo.reset()
    compiled = torch.compile(fused_acts.gated, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="expected"):
        compiled(*arguments, **options)


def test_layout_and_variant_are_keywords():
    for positional in ((GATE, GATE, "swiglu"), (GATE, None, "swiglu", "gate_up")):
        with pytest.raises(TypeError, match="positional"):
            fused_acts.gated(*positional)
    with pytest.raises(TypeError, match="positional"):
        getattr(fused_acts, VARIANTS[0])(GATE, None, "gate_up")
    with pytest.raises(TypeError, match="variant"):
        getattr(fused_acts, VARIANTS[0])(GATE, variant="swiglu")


def test_module_checks_its_options_at_once():
    with pytest.raises(ValueError, match="variant.*'relu'") as raised:
        fused_acts.nn.GatedActivation("relu")
    assert all(name in str(raised.value) for name in VARIANTS)
    with pytest.raises(ValueError, match="layout.*'halves'") as raised:
        fused_acts.nn.GatedActivation(layout="halves")
    assert all(name in str(raised.value) for name in PACKED)


def test_a_tensor_that_requires_grad_must_be_floating_point():
    with pytest.raises(RuntimeError, match="floating point"):
        GATE.int().requires_grad_()


def test_an_error_leaves_the_next_call_alone():
    gate, up, _ = operands(4, 6, dtype=F32)
    before = fused_acts.gated(gate, up)
    with pytest.raises(ValueError, match="up"):
        fused_acts.gated(gate, up[:, 1:])
    assert same_bits(fused_acts.gated(gate, up), before)


@pytest.mark.parametrize("kind", ["to_sparse", "to_sparse_csr", "to_mkldnn"])
def test_other_storage_goes_by_its_argument(kind):
    tensor, row = getattr(GATE, kind)(), torch.ones(6)
    for call, name in (
        (lambda: fused_acts.gelu(tensor), "x"),
        (lambda: fused_acts.gelu(GATE, tensor), "bias"),
        (lambda: fused_acts.swiglu(GATE, GATE, gate_bias=tensor, up_bias=row), "gate_bias"),
        (lambda: fused_acts.swiglu(GATE, GATE, beta=tensor), "beta"),
        (lambda: fused_acts.swiglu(GATE, GATE, out=tensor), "out"),
        (lambda: fused_acts.maxout(tensor, 2), "x"),
        (lambda: fused_acts.softmax_glu(tensor, GATE), "gate"),
        (lambda: fused_acts.softmax_glu(GATE, tensor), "up"),
    ):
        with pytest.raises(TypeError, match=f"^{name}: .*torch.strided"):
            call()


def test_other_dtypes_go_by_their_names():
    quantized = torch.quantize_per_tensor(GATE, 0.1, 0, torch.qint8)
    for tensor, dtype in ((quantized, "qint8"), (GATE.to(torch.float8_e4m3fn), "float8_e4m3fn")):
        with pytest.raises(TypeError, match=f"^x: .*{dtype}"):
            fused_acts.gelu(tensor)
    with pytest.raises(ValueError, match=f"^x: .*{dtype}"):
        torch.ops.fused_acts.glu_forward(tensor, None, 0, 0)


def test_what_a_learned_parameter_may_be():
    for module in (fused_acts.nn.GatedActivation, fused_acts.nn.Swish):
        with pytest.raises(
            TypeError, match="^beta: .*learned, per_channel, .*did you mean learned"
        ):
            module(beta="learn")
