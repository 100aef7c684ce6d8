"""Quantised results at home in torch: compilation, export, operators under opcheck, autocast."""

import pytest
import torch
from cases import VARIANTS, operands, random
from expert_row_cases import DESCRIPTORS, row_operands
from quantized_cases import LAYOUTS, WAYS, Way, check, expected, quantized, unit
from torch._dynamo.testing import CompileCounterWithBackend

import fused_acts

OPS = torch.ops.fused_acts
of_layouts = pytest.mark.parametrize("way", LAYOUTS, ids=str)
COMPILED = (
    Way("fp8_tensor"),
    Way("fp8_row", "col"),
    Way("fp8_block128", "packed_ue8m0", "pow2"),
    Way("nvfp4", "swizzled"),
)
of_some = pytest.mark.parametrize("way", COMPILED, ids=str)
NUMBERS = (1.5, 1.0, None, 1.25, VARIANTS.index("swiglu"), 0)


def chosen(way):
    """What the operators take."""
    formats = ("fp8_tensor", "fp8_row", "int8_row", "fp8_block128", "mxfp8", "nvfp4")
    layouts = ("row", "col", "packed_ue8m0", "swizzled")
    scale = torch.tensor(way.options["scale"]) if "scale" in way.options else None
    indices = formats.index(way.format), layouts.index(way.scale_layout)
    return *indices, way.scale_rounding == "pow2", False, 0.0, scale


def check_operator(operator, arguments, *tests):
    names = {"test_utils": tests} if tests else {}
    results = torch.library.opcheck(operator, arguments, **names)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_opcheck(way):
    gate, up, _ = operands(5, 130, dtype=torch.bfloat16)
    bias = random(130, dtype=torch.float32, seed=3)
    # That of schemas cannot compare tensors of fp8 among the arguments.
    every = ("test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    every = every if way in (Way("fp8_row", "col"), Way("nvfp4")) else every[:1]
    call = gate, up, bias, None, None, *NUMBERS, *chosen(way)
    check_operator(OPS.glu_quantized, call, *every, "test_schema")
    packed = torch.cat((gate, up), -1).view(5, 1, -1)
    check_operator(OPS.glu_quantized, (packed, None, *call[2:]), "test_faketensor")
    results = OPS.glu_quantized(*call)
    if way == Way("int8_row"):
        every = *every, "test_schema"
    check_operator(OPS.glu_quantized_out, (*call, *results), *every)
    rows = DESCRIPTORS["counts"]
    gate, up = row_operands("swiglu", rows, 130, torch.float32)[:2]
    of_rows = None, rows.options["counts"], 2
    call = gate, up, *call[2:], *of_rows
    check_operator(OPS.glu_quantized, call, "test_faketensor")
    values, scales = OPS.glu_quantized(*call)
    check_operator(OPS.glu_quantized_out, (*call[:-3], values, scales, *of_rows), "test_faketensor")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_opcheck_of_blocks(dtype):
    """And what they are: fp8_block128 of a matrix as it is, and back in its type."""
    x = random(5, 2, 300, dtype=dtype, seed=1)
    check_operator(OPS.quantize_blocks, (x,))
    check_operator(OPS.quantize_blocks, (x[..., 1:131],), "test_faketensor")
    result = OPS.quantize_blocks(x)
    check(result, expected(x, Way("fp8_block128")))
    index = [torch.float64, torch.float32, torch.float16, torch.bfloat16].index(dtype)
    tests = "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic"
    check_operator(OPS.dequantize_blocks, (*result, index), *tests)
    back = fused_acts.reference.dequantized(result, format="fp8_block128").to(dtype)
    assert torch.equal(OPS.dequantize_blocks(*result, index), back)


@of_some
def test_compile(way, fresh_dynamo):
    """One graph for any number of rows, of a first that torch may compile twice."""
    counter = CompileCounterWithBackend("aot_eager")

    def function(x, bias, weight):
        values, scales = fused_acts.gated_quantized(x * 2, bias=bias, weight=weight, **way.options)
        return values, scales

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    graphs = []
    for rows in (5, 133, 12):
        x = random(rows, 260, dtype=torch.bfloat16, seed=rows)
        given = (
            x,
            random(260, dtype=torch.float32, seed=1),
            random(rows, dtype=torch.float32, seed=2),
        )
        check(compiled(*given), function(*given))
        graphs.append(counter.frame_count)
    assert len({*graphs}) == 1


@of_some
def test_compile_into_tensors(way, fresh_dynamo):
    """Of experts, whose counts change."""

    def function(gate, up, counts, out):
        return fused_acts.gated_quantized(gate, up, counts=counts, out=out, **way.options)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    rows = DESCRIPTORS["counts"]
    gate, up = row_operands("swiglu", rows, 130, torch.bfloat16)[:2]
    counts = rows.options["counts"]
    right = fused_acts.gated_quantized(gate, up, counts=counts, padding="zero", **way.options)
    other = fused_acts.gated_quantized(up, gate, counts=counts, padding="zero", **way.options)
    out = tuple(tensor.clone() for tensor in other)
    if way.format == "fp8_tensor":
        out = out[0], torch.zeros(0)
    ours = compiled(gate, up, counts, out)
    check((ours[0], right[1] if way.format == "fp8_tensor" else out[1]), right)
    check((out[0], ours[1]), right)


def test_numbers_that_change(fresh_dynamo):
    """They are neither stale nor an error, computed ones included."""
    gate, up, _ = operands(3, 32, dtype=torch.float32)

    def function(number):
        numbers = {"beta": number, "limit": number * 3, "weight": number / 2}
        return fused_acts.gated_quantized(
            gate, up, format="nvfp4", scale=number * 5, amax_floor=number / 9, **numbers
        )

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for number in (0.5, 0.25, 1.5, 0.75):  # a symbol from the second on
        check(compiled(number), function(number))


def test_a_wrong_call_under_compile(fresh_dynamo):
    gate = torch.ones(3, 8)
    for match, options in (
        ("scale_layout: expected row or col", {"scale_layout": "swizzled"}),
        ("gate_bias: expected", {"gate_bias": torch.ones(3)}),
        ("gated_quantized: gate requires grad", {}),
    ):
        leaf = gate.clone().requires_grad_(not options)

        def function(gate, options=options):
            return fused_acts.gated_quantized(gate, gate, format="fp8_row", **options)

        with pytest.raises(Exception, match=match):
            torch.compile(function, fullgraph=True, backend="aot_eager")(leaf)


class Block(torch.nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way = way
        self.up = torch.nn.Linear(8, 128)

    def forward(self, x):
        return tuple(fused_acts.gated_quantized(self.up(x), **self.way.options))


@of_some
def test_export(way):
    strict = way.format == "fp8_row"
    rows = torch.export.Dim("rows", min=2, max=4096)
    block, x = Block(way), random(6, 8, dtype=torch.float32, seed=1)
    with torch.no_grad():
        program = torch.export.export(block, (x,), dynamic_shapes=[{0: rows}], strict=strict)
        assert any("glu_quantized" in str(node.target) for node in program.graph.nodes)
        for count in (6, 131):
            x = random(count, 8, dtype=torch.float32, seed=2)
            check(program.module()(x), block(x))


def test_autocast():
    """gate and up in the wider of their types, a bias of another one in float32."""
    gate, up, bias = operands(3, 64, dtype=torch.float32)
    narrow, half = gate.bfloat16(), bias[0].half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = fused_acts.gated_quantized(narrow, up, format="mxfp8", gate_bias=half)
    right = quantized("swiglu", [narrow.float(), up], Way("mxfp8"), gate_bias=half.float())
    check(ours, right)
    with pytest.raises(TypeError, match="^up: "):
        fused_acts.gated_quantized(narrow, up, format="mxfp8")


def test_the_negative_bit():
    x = torch._neg_view(random(3, 64, dtype=torch.float32, seed=1))
    right = expected(unit("swiglu", [x.resolve_neg()] * 2), Way("fp8_row"))
    ours = fused_acts.gated_quantized(x, x, format="fp8_row")
    check(ours, right)
    for out in (ours, (torch.zeros(3, 64, dtype=torch.float8_e4m3fn), torch.zeros(3, 1))):
        check(fused_acts.gated_quantized(x, x, format="fp8_row", out=out), right)


@of_layouts
@pytest.mark.parametrize("rows", [5, 0])
def test_meta(way, rows):
    """Shapes, strides and types without a kernel."""
    gate, up, _ = operands(rows, 130, dtype=torch.bfloat16)
    right = quantized("swiglu", [gate, up], way)
    ours = fused_acts.gated_quantized(gate.to("meta"), up.to("meta"), **way.options)
    for one, other in zip(ours, right, strict=True):
        assert one.device.type == "meta" and one.dtype == other.dtype
        assert one.shape == other.shape and one.stride() == other.stride()
