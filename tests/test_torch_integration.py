"""The operators under opcheck, torch.compile, torch.export, checkpointing and modules."""

import io

import pytest
import torch
from cases import LAYOUTS, PACKED, VARIANTS, as_inputs, gated, operands, random, run, same_bits

import fused_acts

OPS = torch.ops.fused_acts


def sample_calls(dtype, variant):
    """(operator, arguments) for every operator and layout, with views among the operands."""
    gate, up, grad_out = operands(3, 8, dtype=dtype)
    yield OPS.glu_forward, (gate, up, variant, 0)
    yield OPS.glu_forward, (gate[:, 1:], up[:, :-1], variant, 0)
    yield OPS.glu_forward, (gate[:0], up[:0], variant, 0)
    yield OPS.glu_forward_out, (gate, up, variant, 0, torch.zeros_like(gate))
    for needs in ((True, True), (True, False), (False, True), (False, False)):
        yield OPS.glu_backward, (grad_out, gate, up, variant, *needs)
    yield OPS.glu_backward, (grad_out[:1].expand(3, -1), gate, up, variant, True, True)
    for layout, name in enumerate(PACKED):
        (x,) = as_inputs(gate, up, name)
        yield OPS.glu_forward, (x, None, variant, layout)
        yield OPS.glu_forward_out, (x, None, variant, layout, torch.zeros_like(gate))
        yield OPS.glu_backward_packed, (grad_out, x, variant, layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    for operator, arguments in sample_calls(dtype, len(VARIANTS) - 1):
        results = torch.library.opcheck(operator, arguments)
        assert set(results.values()) == {"SUCCESS"}


def sample_calls_with_options(dtype):
    """(operator, arguments) for the operators with options, with rows in either dtype."""
    gate, up, grad_out = operands(3, 8, dtype=dtype)
    variant = VARIANTS.index("swiglu")
    for kind in {dtype, torch.float32}:
        bias, beta = (random(8, dtype=kind, seed=seed) for seed in (4, 5))
        for rows in (
            (None, None, None),
            (bias, None, None),
            (bias, bias + 1.0, beta),
            (None, bias, beta[0]),
        ):
            wanted = 3 + 4 * (rows[0] is not None) + 8 * (rows[1] is not None)
            wanted += 16 * (rows[2] is not None)
            for layout, name in ((0, "separate"), *enumerate(PACKED)):
                inputs = as_inputs(gate, up, name)
                both = (*inputs, None)[:2]
                moves = (*(tensor.cos() for tensor in inputs), None)[:2]
                numbers = (1.5, 2.0, variant, layout)
                yield OPS.glu_forward_options, (*both, *rows, *numbers)
                yield OPS.glu_forward_options_out, (*both, *rows, *numbers, torch.zeros_like(gate))
                for needs in (wanted, wanted & ~3):
                    yield OPS.glu_backward_options, (grad_out, *both, *rows, *numbers, needs)
                yield OPS.glu_backward_inplace, (grad_out, *both, *rows, *numbers, wanted)
                for seed, along in ((grad_out, moves), (None, moves), (grad_out, (None, None))):
                    for needs in ((True, True), (False, True)):
                        yield OPS.glu_second, (seed, *both, *along, *rows, *numbers, *needs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_with_options(dtype):
    """The schema and the fake implementation for all; the slower checks for one of each."""
    seen = set()
    for operator, arguments in sample_calls_with_options(dtype):
        tests = ["test_schema", "test_faketensor"]
        if operator not in seen and arguments[1] is not None:
            tests += ["test_autograd_registration", "test_aot_dispatch_dynamic"]
            seen.add(operator)
        results = torch.library.opcheck(operator, arguments, test_utils=tests)
        assert set(results.values()) == {"SUCCESS"}, (operator, arguments, results)
    assert len(seen) == 5


def every_variant(layout):
    """A function from the inputs of each variant, one after the other, to their results."""

    def function(*inputs):
        each = len(inputs) // len(VARIANTS)
        return [
            gated(variant, inputs[i * each : (i + 1) * each], layout)
            for i, variant in enumerate(VARIANTS)
        ]

    return function


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled(dtype, layout, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(
        every_variant(layout), backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for shape in ((4, 8), (6, 12)):
        gate, up, grad_out = operands(*shape, dtype=dtype)
        inputs = as_inputs(gate, up, layout)
        expected = [run(variant, inputs, grad_out, layout) for variant in VARIANTS]
        leaves = [tensor.clone().requires_grad_() for tensor in inputs * len(VARIANTS)]
        outs = compiled(*leaves)
        grads = torch.autograd.grad(outs, leaves, [grad_out] * len(outs))
        without_grad = compiled(*(leaf.detach() for leaf in leaves))
        for i, (out, *out_grads) in enumerate(expected):
            assert same_bits(outs[i].detach(), out) and same_bits(without_grad[i], out)
            mine = grads[i * len(inputs) : (i + 1) * len(inputs)]
            assert all(map(same_bits, mine, out_grads))


@pytest.mark.parametrize("layout", ["separate", "interleaved"])
def test_compiled_by_inductor(layout):
    """The default backend, in an MLP, both passes; the graph has the operator in it once."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    into, back = torch.nn.Linear(16, 64), torch.nn.Linear(32, 16)

    def block(x):
        hidden = into(x)
        inputs = hidden.tensor_split(2, -1) if layout == "separate" else (hidden,)
        return back(gated("swiglu", inputs, layout))

    compiled = torch.compile(block, fullgraph=True)
    x, grad_out = torch.randn(2, 7, 16)
    results = []
    for function in (block, compiled):
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        results.append((out, *torch.autograd.grad(out, (leaf, into.weight, back.bias), grad_out)))
    for result, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(result, expected)


def test_compiled_out():
    torch._dynamo.reset()
    gate, up, _ = operands(4, 8, dtype=torch.float32)

    def function(gate, up, out):
        fused_acts.gated(gate, up, out=out)
        return out * 2.0

    with torch.no_grad():
        out = torch.empty_like(gate)
        doubled = torch.compile(function, backend="aot_eager", fullgraph=True)(gate, up, out)
    expected = fused_acts.gated(gate, up)
    assert same_bits(out, expected) and same_bits(doubled, expected * 2.0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export(layout):
    options = {} if layout == "separate" else {"layout": layout}
    module = fused_acts.nn.GatedActivation("geglu", **options)
    inputs = as_inputs(*operands(4, 8, dtype=torch.float32)[:2], layout)
    rows = torch.export.Dim("rows")
    exported = torch.export.export(module, inputs, dynamic_shapes=[{0: rows}] * len(inputs))
    targets = [str(node.target) for node in exported.graph.nodes]
    assert targets.count("fused_acts.glu_forward.default") == 1
    others = as_inputs(*operands(9, 8, dtype=torch.float32)[:2], layout)
    assert same_bits(exported.module()(*others), module(*others))


def test_exported_program_survives_saving():
    module = fused_acts.nn.GatedActivation("geglu", layout="interleaved")
    x, _, _ = operands(4, 8, dtype=torch.float32)
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,)), file)
    file.seek(0)
    assert same_bits(torch.export.load(file).module()(x), module(x))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(use_reentrant):
    gate, up, grad_out = operands(4, 8, dtype=torch.float32)
    expected = run("swiglu", (gate, up), grad_out)
    leaves = [gate.requires_grad_(), up.requires_grad_()]
    out = torch.utils.checkpoint.checkpoint(fused_acts.swiglu, *leaves, use_reentrant=use_reentrant)
    out.backward(grad_out)
    assert all(map(same_bits, (out.detach(), gate.grad, up.grad), expected))


def test_inference_mode_and_frozen_inputs():
    gate, up, _ = operands(4, 8, dtype=torch.float32)
    expected = fused_acts.gated(gate, up)
    with torch.inference_mode():
        assert same_bits(fused_acts.gated(gate, up), expected)
        assert same_bits(fused_acts.gated(gate.clone(), up.clone()), expected)
        assert same_bits(fused_acts.gated(gate, up, out=torch.empty_like(gate)), expected)


def test_hidden_behind_a_parameter():
    """Subclasses of Tensor, parameters above all, are operands like any other."""
    gate, up, grad_out = operands(4, 8, dtype=torch.float32)
    expected = run("swiglu", (gate, up), grad_out)
    parameter = torch.nn.Parameter(gate)
    fused_acts.gated(parameter, up).backward(grad_out)
    assert same_bits(parameter.grad, expected[1])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint_of_a_learned_parameter(use_reentrant):
    gate, up, grad_out = operands(4, 8, dtype=torch.float32)
    module = fused_acts.nn.GatedActivation("swiglu", beta="per_channel", num_channels=8)
    leaves = [gate.requires_grad_(), up.requires_grad_()]
    expected = torch.autograd.grad(module(*leaves), [*leaves, module.beta], grad_out)
    out = torch.utils.checkpoint.checkpoint(module, *leaves, use_reentrant=use_reentrant)
    out.backward(grad_out)
    assert all(map(same_bits, (gate.grad, up.grad, module.beta.grad), expected))


MIXED = [
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.bfloat16),
]


@pytest.mark.parametrize("dtypes", MIXED)
@pytest.mark.parametrize("options", [{}, {"limit": 1.0}, {"rounding": "eager"}])
def test_mixed_dtypes_promote_under_autocast(dtypes, options):
    """As torch promotes them; outside autocast they are an error."""
    gate, up, grad_out = operands(4, 8, dtype=torch.float32)
    leaves = [t.to(d).requires_grad_() for t, d in zip((gate, up), dtypes, strict=True)]
    with pytest.raises(TypeError, match="^up: "):
        fused_acts.swiglu(*leaves, **options)
    wide = torch.promote_types(*dtypes)
    expected = fused_acts.swiglu(*(leaf.to(wide) for leaf in leaves), **options)
    with torch.autocast("cpu", torch.bfloat16):
        out = fused_acts.swiglu(*leaves, **options)
    assert out.dtype == wide and same_bits(out.detach(), expected.detach())
    grads = torch.autograd.grad(out, leaves, grad_out.to(wide))
    rights = torch.autograd.grad(expected, leaves, grad_out.to(wide))
    assert all(map(same_bits, grads, rights))
    assert [grad.dtype for grad in grads] == list(dtypes)


def test_autocast_computes_in_the_dtype_of_its_inputs():
    gate, up, _ = operands(4, 8, dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        inputs = gate.to(dtype), up.to(dtype)
        expected = fused_acts.swiglu(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            assert same_bits(fused_acts.swiglu(*inputs), expected)
            with pytest.raises(ValueError, match="^up: "):
                fused_acts.swiglu(gate.to(dtype), up[:, 1:])


@pytest.mark.parametrize("rounding", ["single", "eager"])
def test_rows_under_autocast(rounding):
    """Biases and parameters of any dtype; those in float32 lose nothing."""
    gate, up, grad_out = operands(4, 8, dtype=torch.bfloat16)
    wide = [random(8, dtype=torch.float32, seed=seed).requires_grad_() for seed in (4, 5)]

    def results(rows):
        out = fused_acts.swiglu(gate, up, gate_bias=rows[0], beta=rows[1], rounding=rounding)
        return [out.detach(), *torch.autograd.grad(out, rows, grad_out)]

    expected = results(wide)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(same_bits, results(wide), expected))
        half = [row.detach().half().requires_grad_() for row in wide]
        out, *grads = results(half)
    assert out.dtype == torch.bfloat16 and [grad.dtype for grad in grads] == [torch.float16] * 2
    expected = results([row.detach().float().requires_grad_() for row in half])
    assert same_bits(out, expected[0])


def test_a_block_under_autocast():
    """Linear layers give bfloat16, a frozen operand is float32: the usual way of mixing them."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 8)
    module = fused_acts.nn.GatedActivation("swiglu", beta="learned")
    x, up = torch.randn(4, 8), torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, same = module(linear(x), up), module(linear(x), linear(x))
    assert mixed.dtype == torch.float32 and same.dtype == torch.bfloat16
    (mixed.sum() + same.sum()).backward()
    assert linear.weight.grad.dtype == module.beta.grad.dtype == torch.float32
