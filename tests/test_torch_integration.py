"""torch.compile, torch.export, checkpointing and inference mode."""

import io
from itertools import product

import pytest
import torch
from cases import (
    ACTIVATIONS,
    LAYOUTS,
    PACKED,
    UNARY,
    VARIANTS,
    as_inputs,
    gated,
    operands,
    own_layout,
    run,
    same_bits,
)

import fused_acts


def every_row(names, layout):
    """A function from the inputs of each row, one after the other, to their results."""

    def function(*inputs):
        each = len(inputs) // len(names)
        return [
            gated(name, inputs[i * each : (i + 1) * each], layout) for i, name in enumerate(names)
        ]

    return function


# Traced alike whatever the row: all rows once, and one of each kind in all layouts and forms.
@pytest.mark.parametrize(
    "names, layout, dtype, dynamic",
    [
        (VARIANTS, "separate", torch.bfloat16, False),
        (ACTIVATIONS, UNARY, torch.bfloat16, False),
        *product([("swiglu", "gtu")], LAYOUTS, [torch.float32, torch.bfloat16], [True]),
        *product([("swiglu", "gtu")], PACKED, [torch.float32], [False]),
        (("swish", "softplus"), UNARY, torch.float32, True),
    ],
)
def test_compiled(names, layout, dtype, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(
        every_row(names, layout), backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for shape in ((4, 8), (6, 12))[: 1 + (len(names) == 2)]:
        gate, up, grad_out = operands(*shape, dtype=dtype)
        inputs = as_inputs(gate, up, layout)
        expected = [run(name, inputs, grad_out, layout) for name in names]
        leaves = [tensor.clone().requires_grad_() for tensor in inputs * len(names)]
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


@pytest.mark.parametrize("function", [fused_acts.swiglu, fused_acts.mish])
def test_compiled_out(function):
    """The second argument of mish is its bias."""
    torch._dynamo.reset()
    gate, up, _ = operands(4, 8, dtype=torch.float32)
    inputs = (gate, up if function is fused_acts.swiglu else up[0])

    def doubling(*inputs, out):
        function(*inputs, out=out)
        return out * 2.0

    with torch.no_grad():
        out = torch.empty_like(gate)
        doubled = torch.compile(doubling, backend="aot_eager", fullgraph=True)(*inputs, out=out)
    expected = function(*inputs)
    assert same_bits(out, expected) and same_bits(doubled, expected * 2.0)


@pytest.mark.parametrize("layout", (*LAYOUTS, UNARY))
def test_export(layout):
    chosen = {"layout": layout} if layout in PACKED else {}
    module = fused_acts.nn.GatedActivation("geglu", **chosen)
    if layout == UNARY:
        module = fused_acts.nn.Activation("gelu")
    inputs = as_inputs(*operands(4, 8, dtype=torch.float32)[:2], layout)
    rows = torch.export.Dim("rows")
    exported = torch.export.export(module, inputs, dynamic_shapes=[{0: rows}] * len(inputs))
    targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert targets == ["fused_acts.gated.default"]
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
@pytest.mark.parametrize("name", ["swiglu", "mish"])
def test_checkpoint(name, use_reentrant):
    gate, up, grad_out = operands(4, 8, dtype=torch.float32)
    inputs = as_inputs(gate, up, own_layout(name))
    expected = run(name, inputs, grad_out)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    function = getattr(fused_acts, name)
    out = torch.utils.checkpoint.checkpoint(function, *leaves, use_reentrant=use_reentrant)
    out.backward(grad_out)
    assert all(map(same_bits, (out.detach(), *(leaf.grad for leaf in leaves)), expected))


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
