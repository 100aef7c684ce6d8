"""Wrong calls of gated_quantized: errors that name the argument, before anything is written."""

import pytest
import torch
from cases import operands
from quantized_cases import FORMATS, SCALES, WAYS, Way

import fused_acts

GATE, UP, _ = operands(4, 6, dtype=torch.float32)
OFFS = torch.tensor([2, 3], dtype=torch.int32)
F8 = torch.float8_e4m3fn


def call(*arguments, format="fp8_row", **options):
    return fused_acts.gated_quantized(*(arguments or (GATE, UP)), format=format, **options)


WRONG = [
    (ValueError, "^variant: .*'swigul'.*swiglu", {"variant": "swigul"}),
    (ValueError, "^layout: .*'halves'", {"layout": "halves"}),
    (ValueError, "^layout: .*gate_up with two tensors.*'interleaved'", {"layout": "interleaved"}),
    (ValueError, "^format: .*fp8_tensor, .*nvfp4.*'fp8'", {"format": "fp8"}),
    (ValueError, "^format: .*None", {"format": None}),
    (ValueError, "^scale_layout: .*swizzled.*'rows'", {"scale_layout": "rows"}),
    (ValueError, "^scale_rounding: .*pow2.*'up'", {"scale_rounding": "up"}),
    (ValueError, "^rounding: .*storage.*'eager'", {"rounding": "eager"}),
    (TypeError, "^amax_floor: .*str", {"amax_floor": "0"}),
    (ValueError, "^amax_floor: .*-1", {"amax_floor": -1.0}),
    (ValueError, "^amax_floor: .*inf", {"amax_floor": float("inf")}),
    (ValueError, "^amax_floor: .*nan", {"amax_floor": float("nan")}),
    (ValueError, "^amax_floor: .*1e\\+300", {"amax_floor": 1e300}),
    (
        ValueError,
        "^amax_floor: .*0 with fp8_tensor",
        {"format": "fp8_tensor", "scale": 1.0, "amax_floor": 1e-4},
    ),
    (ValueError, "^scale: .*none with fp8_row", {"scale": 1.0}),
    (ValueError, "^scale: .*nvfp4", {"format": "nvfp4"}),
    (ValueError, "^scale: .*fp8_tensor", {"format": "fp8_tensor"}),
    (TypeError, "^scale: .*str", {"format": "fp8_tensor", "scale": "1"}),
    (TypeError, "^scale: .*float64", {"format": "fp8_tensor", "scale": torch.ones(1).double()}),
    (ValueError, r"^scale: .*one element.*\[2\]", {"format": "nvfp4", "scale": torch.ones(2)}),
    (ValueError, "^scale: .*float32", {"format": "nvfp4", "scale": 1e39}),
    (ValueError, "^scale: .*a float holds", {"format": "nvfp4", "scale": 10**400}),
    (ValueError, "^amax_floor: .*a float holds", {"amax_floor": 10**400}),
    (TypeError, "^dim: ", {"dim": 0}),
    (TypeError, "^inplace_backward: ", {"inplace_backward": True}),
    (TypeError, "^save: ", {"save": "fp8_block128"}),
    (TypeError, "^alpha: .*swiglu", {"alpha": 1.0}),
    (ValueError, "^limit: .*-1", {"limit": -1.0}),
    (ValueError, r"^gate_bias: .*\[6\].*\[4\]", {"gate_bias": torch.zeros(4)}),
    (ValueError, r"^beta: .*\[6\].*\[4\]", {"beta": torch.zeros(4)}),
    (ValueError, r"^weight: .*\[4\].*\[6\]", {"weight": torch.zeros(6)}),
    (TypeError, "^offs: .*int64", {"offs": OFFS.long()}),
    (ValueError, "^padding: .*'none'", {"padding": "none"}),
    (TypeError, "^out: .*values and scales", {"out": torch.empty(4, 6, dtype=F8)}),
]


@pytest.mark.parametrize("error, match, options", WRONG)
def test_options(error, match, options):
    with pytest.raises(error, match=match):
        call(**options)


@pytest.mark.parametrize(
    "error, match, arguments",
    [
        (TypeError, "^x: .*list", ([1.0],)),
        (TypeError, "^up: .*float", (GATE, 1.0)),
        (TypeError, "^gate: .*float32, float16 or bfloat16.*float64", (GATE.double(), UP.double())),
        (TypeError, "^x: expected float32, float16 or bfloat16.*int32", (GATE.int(),)),
        (TypeError, "^up: .*float32.*float16", (GATE, UP.half())),
        (ValueError, r"^up: .*\[4, 6\].*\[4, 5\]", (GATE, UP[:, 1:])),
        (ValueError, r"^x: .*even.*\[4, 5\]", (GATE[:, 1:],)),
        (ValueError, "^gate: .*0-d", (GATE[0, 0], UP[0, 0])),
        (TypeError, "^x: .*strided", (GATE.to_sparse(),)),
    ],
)
def test_operands(error, match, arguments):
    with pytest.raises(error, match=match):
        call(*arguments)


def test_an_odd_width_of_two_values_a_byte():
    with pytest.raises(ValueError, match=r"^gate: .*even number of columns with nvfp4, got 5"):
        call(GATE[:, 1:], UP[:, 1:], format="nvfp4", scale=1.0)


@pytest.mark.parametrize("format", FORMATS)
def test_ways_that_there_are_not(format):
    """Layouts and roundings that a format does not have; all others are tested elsewhere."""
    scale = {"scale": SCALES[format]} if format in SCALES else {}
    for layout in ("row", "col", "packed_ue8m0", "swizzled"):
        for rounding in ("none", "pow2"):
            if Way(format, layout, rounding) in WAYS or (format, rounding) == ("mxfp8", "pow2"):
                continue
            with pytest.raises(ValueError, match=f"^scale_(layout|rounding): expected .*{format}"):
                call(format=format, scale_layout=layout, scale_rounding=rounding, **scale)


def wrong_results():
    """(name of what is wrong, values, scales) of a call with columns first."""
    values, scales = call(scale_layout="col")
    yield "values", values.view(torch.int8), scales
    yield "values", values[:3], scales
    yield "values", torch.empty(6, 4, dtype=F8).t(), scales
    yield "values", torch.empty(1, 6, dtype=F8).expand(4, 6), scales
    yield "values", None, scales
    yield "values", GATE.view(F8)[:, 4:10], scales
    yield "scales", values, scales.double()
    yield "scales", values, scales[:3]
    yield "scales", values, torch.empty(8, 1)[::2]
    yield "scales", values, UP[0, :4].unsqueeze(-1)
    yield "scales", values, values.new_empty(16).view(torch.float32).unsqueeze(-1)[:0]


@pytest.mark.parametrize("index", range(11))
def test_results_to_write_into(index):
    name, values, scales = list(wrong_results())[index]
    gate = GATE.clone()
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        call(scale_layout="col", out=(values, scales))
    assert torch.equal(GATE, gate)


def test_scales_in_values():
    memory = torch.zeros(64, dtype=torch.uint8)
    values, scales = memory[:24].view(4, 6).view(F8), memory[16:32].view(torch.float32).view(4, 1)
    with pytest.raises(ValueError, match="^scales: .*values"):
        call(out=(values, scales))
    assert not memory.any()


def test_what_inference_made():
    with torch.inference_mode():
        out = call()
    with pytest.raises(RuntimeError, match="^values: .*inference"):
        call(out=out)
    with torch.inference_mode():
        call(out=out)


@pytest.mark.parametrize("name", ["gate", "up", "gate_bias", "beta", "weight"])
def test_derivatives(name):
    """Nothing that asks for one, unless gradients are off."""
    given = {"gate": GATE, "up": UP, "gate_bias": UP[0], "beta": UP[1], "weight": UP[:, 0].clone()}
    leaves = given | {name: given[name].clone().requires_grad_()}

    def function(gate, up, **options):
        return call(gate, up, **options)

    with pytest.raises(
        RuntimeError, match=f"^gated_quantized: {name} requires grad, but it is not"
    ):
        function(**leaves)
    with torch.no_grad():
        right = function(**leaves)
    assert torch.equal(right.values, function(**given).values)
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(RuntimeError, match=f"^gated_quantized: {name} has a tangent, but it is not"),
    ):
        dual = torch.autograd.forward_ad.make_dual(given[name], given[name])
        function(**given | {name: dual})


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.vmap(f)(GATE),
        lambda f: torch.func.jvp(f, (GATE,), (GATE,)),
        lambda f: torch.func.grad(lambda x: f(x).float().sum())(GATE),
    ],
)
def test_transforms(transform):
    with pytest.raises(RuntimeError, match="^gated_quantized: .*transform of torch.func.*not diff"):
        transform(lambda x: call(x).values)


def test_nested():
    nested = torch.nested.nested_tensor([GATE[:2], GATE[2:]], layout=torch.jagged)
    with pytest.raises(TypeError, match="^x: .*nested"):
        call(nested)
    with pytest.raises(TypeError, match="^up: .*nested"):
        call(GATE, nested)


def test_script():
    with pytest.raises(TypeError, match="torch.jit.script"):
        torch.jit.script(fused_acts.gated_quantized)
