"""What an operator refuses on a device its implementation for fake tensors refuses too."""

import re

import pytest
import torch
from cases import operands

import fused_acts

OPS = torch.ops.fused_acts
ROWS, COLS = 4, 6
INF = float("inf")
SWIGLU = fused_acts.variants().index("swiglu")
ALONE = len(fused_acts.variants())
COUNT = ALONE + len(fused_acts.activations())


def right_calls():
    """{operator and form: {argument: its value}} in the order of the operator's arguments"""
    gate, up, grad = operands(ROWS, COLS, dtype=torch.float32)
    row, wide = gate[0].clone(), torch.cat((gate, up), 1)
    numbers = {
        "scalar": 1.0,
        "second": 1.0,
        "limit": INF,
        "weight": 1.0,
        "variant": SWIGLU,
        "layout": 0,
    }
    options = {"gate_bias": row, "up_bias": row.clone(), "parameter": row.clone(), **numbers}
    alone = {"bias": row, "": None, "parameter": row.clone(), **numbers, "variant": ALONE}
    pair, packed = {"gate": gate, "up": up}, {"x": wide, "up": None}
    yield "glu_forward", pair | {"variant": SWIGLU, "layout": 0}
    yield "glu_forward, packed", packed | {"variant": SWIGLU, "layout": 2}
    yield "glu_forward, alone", {"x": gate, "up": None, "variant": ALONE, "layout": 0}
    for form, inputs, given in (
        ("", pair, options),
        (", packed", packed, options),
        (", alone", {"x": gate, "up": None}, alone),
    ):
        along = {"gate_tangent": next(iter(inputs.values())), "up_tangent": inputs["up"]}
        seed = {"grad_out": grad}
        yield f"glu_forward_options{form}", inputs | given
        indices = {"variant": given["variant"], "layout": given["layout"]}
        out = {"out": torch.zeros_like(gate)}
        yield f"glu_forward_out{form}", inputs | indices | out | given
        yield f"glu_backward{form}", seed | inputs | indices | {"needs": 1}
        yield f"glu_backward_options{form}", seed | inputs | given | {"needs": 1}
        yield (
            f"glu_backward_inplace{form}",
            seed | inputs | given | {"needs": 1, "product": False},
        )
        last = {"needs_out": True, "needs_inputs": True}
        yield f"glu_double_backward{form}", seed | inputs | along | given | last
    quantization = {"format": 3, "scale_layout": 2, "power": True, "single": False}
    quantization |= {"amax_floor": 0.0}
    for form, inputs, given in (("", pair, options), (", alone", {"x": gate, "up": None}, alone)):
        yield f"glu_quantized{form}", inputs | given | quantization | {"scale": None}
        values = torch.zeros(ROWS, COLS, dtype=torch.float8_e4m3fn)
        scales = torch.zeros(1, ROWS, dtype=torch.int32).t()
        results = {"values": values, "scales": scales}
        yield f"glu_quantized_out{form}", inputs | given | quantization | {"scale": None} | results
    given = {"format": 5, "scale_layout": 0, "power": False, "single": False, "amax_floor": 0.0}
    yield "glu_quantized, nvfp4", pair | options | given | {"scale": torch.ones(1)}
    yield "quantize_blocks", {"x": gate}
    blocks = torch.zeros(ROWS, COLS, dtype=torch.float8_e4m3fn)
    yield "dequantize_blocks", {"values": blocks, "scales": torch.ones(ROWS, 1), "dtype": 1}
    winner = torch.zeros(ROWS, COLS, dtype=torch.uint8)
    yield "maxout_forward", {"x": gate, "pieces": 2}
    yield "maxout_backward", {"grad_out": grad, "winner": winner, "pieces": 2}
    yield "softmax_glu_forward", pair
    stats = {"stats": torch.ones(ROWS, 2), "needs_gate": True, "needs_up": True}
    yield "softmax_glu_backward", {"grad_out": grad} | pair | stats
    for form, names, vectors, numbers in (
        (", norm", ("x", "z"), (gate[0].clone(), None), (0, 1e-6, 2)),
        (", polynorm", ("gate", "up"), (gate[0, :3].clone(), gate[0, :1].clone()), (4, 1e-6, 1)),
        (", topk", ("gate", "up"), (None, None), (5, 0.5, 1)),
    ):
        first, second = names
        weight = "coefficients" if form == ", polynorm" else "weight"
        number = "sparsity" if form == ", topk" else "eps"
        given = {first: gate, second: up, weight: vectors[0], "bias": vectors[1]}
        last = dict(zip(("unit", number, "groups"), numbers, strict=True))
        yield f"row_unit_forward{form}", given | last
        count = {", norm": 2, ", polynorm": 3, ", topk": 2}[form]
        stats = {"stats": torch.ones(ROWS, count)}
        yield f"row_unit_backward{form}", {"grad_out": grad} | given | stats | last | {"needs": 15}


def wrong_values(name, value):
    if isinstance(value, torch.Tensor):
        yield value.int()
        yield value.to(torch.float8_e5m2)
        yield value[:, :-1] if value.dim() == 2 else value[:-1]
        yield value.new_ones(())
        if value.dim() == 2:
            yield value[:-1]
        if value.is_floating_point():
            yield value.double()
    elif name == "up":
        yield torch.ones(ROWS, COLS)  # for an activation
    elif name in ("variant", "layout"):
        yield -1
        yield COUNT
    elif name == "limit":
        yield -1.0
        yield float("nan")
    elif name == "format":
        yield from (-1, 0, 1, 5, 6)
    elif name == "scale_layout":
        yield from (-1, 1, 3, 4)
    elif name == "power":
        yield not value
    elif name == "amax_floor":
        yield from (-1.0, float("inf"), float("nan"), 1e300)
    elif name == "dtype":
        yield from (-1, 0, 4)
    elif name == "unit":
        yield -1
        yield 6
    elif name == "groups":
        yield 0
        yield 5
    elif name == "sparsity":
        yield 0.0
        yield 1.0
        yield float("nan")
    elif name == "pieces":
        yield 0
        yield 257
        yield 5


CALLS = dict(right_calls())


def named(operator, arguments, device):
    """The argument that an error names, None where there is no error."""
    moved = (a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments.values())
    try:
        operator(*moved)
    except (TypeError, ValueError) as error:
        match = re.match(r"(\w+): ", str(error))
        assert match, error
        return match[1]
    return None


@pytest.mark.parametrize("which", CALLS)
def test_the_same_argument_is_named(which):
    operator, right = getattr(OPS, which.split(",")[0]), CALLS[which]
    assert named(operator, right, "cpu") is named(operator, right, "meta") is None
    refused = 0
    for name, value in right.items():
        for wrong in wrong_values(name, value):
            arguments = {
                n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in right.items()
            }
            arguments[name] = wrong
            real, fake = (named(operator, arguments, device) for device in ("cpu", "meta"))
            assert real == fake, (name, wrong, real, fake)
            refused += real is not None
    assert refused >= len(right) - 4
