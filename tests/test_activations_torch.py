"""Activations alone under opcheck, torch.compile, torch.export, checkpointing and autocast."""

import pytest
import torch
from activation_cases import ACTIVATIONS, ALONE, INDEX, PARAMETRIC, fused, parameter
from cases import operands, random, same_bits

import fused_acts

F64 = torch.float64
OPS = torch.ops.fused_acts


def sample_calls(dtype, variant):
    """(operator, arguments) for the operators that activations alone have."""
    x, _, grad_out = operands(3, 8, dtype=dtype)
    bias, value = (random(8, dtype=torch.float32, seed=seed) for seed in (4, 5))
    yield OPS.glu_forward, (x, None, variant, ALONE)
    yield OPS.glu_forward, (x[:, 1:], None, variant, ALONE)
    yield OPS.glu_forward, (x[:0], None, variant, ALONE)
    yield OPS.glu_forward_out, (x, None, variant, ALONE, torch.zeros_like(x))
    yield OPS.glu_backward_packed, (grad_out, x, variant, ALONE)
    yield OPS.glu_backward_packed, (grad_out[:1].expand(3, -1), x, variant, ALONE)
    for rows in (
        (None, None, None),
        (bias, None, None),
        (bias, None, value),
        (None, None, value[0]),
    ):
        numbers = (1.5, float("inf"), variant, ALONE)
        wanted = 1 + 4 * (rows[0] is not None) + 16 * (rows[2] is not None)
        yield OPS.glu_forward_options, (x, None, *rows, *numbers)
        yield OPS.glu_forward_options_out, (x, None, *rows, *numbers, torch.zeros_like(x))
        for needs in (wanted, wanted & ~1):
            yield OPS.glu_backward_options, (grad_out, x, None, *rows, *numbers, needs)
        yield OPS.glu_backward_inplace, (grad_out, x, None, *rows, *numbers, wanted)
        for seed, along in ((grad_out, x.cos()), (None, x.cos()), (grad_out, None)):
            for needs in ((True, True), (False, True)):
                yield OPS.glu_second, (seed, x, None, along, None, *rows, *numbers, *needs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    """The schema and the fake implementation for all; the slower checks for one of each."""
    seen = set()
    for operator, arguments in sample_calls(dtype, INDEX["elu"]):
        tests = ["test_schema", "test_faketensor"]
        if operator not in seen:
            tests += ["test_autograd_registration", "test_aot_dispatch_dynamic"]
            seen.add(operator)
        results = torch.library.opcheck(operator, arguments, test_utils=tests)
        assert set(results.values()) == {"SUCCESS"}, (operator, arguments, results)
    assert len(seen) == 8


def calls_of(names):
    """A function of x, bias and parameter with all of these activations, their options in turn."""

    def function(x, bias, value):
        outs = [
            fused_acts.activation(x, name, bias if i % 2 else None) for i, name in enumerate(names)
        ]
        for i, name in enumerate(names):
            if name in PARAMETRIC:
                given = parameter(name, value if i % 2 else 0.6)
                outs.append(fused_acts.activation(x, name, bias, **given))
        return outs

    return function


@pytest.mark.parametrize(
    "form, dynamic, names",
    [
        ("kernel", False, ACTIVATIONS),
        ("kernel", True, ("softplus", "swish")),
        ("inductor", False, ("softplus", "swish")),
    ],
    ids=["static", "dynamic", "formula"],
)
def test_compiled(form, dynamic, names):
    """Both passes in one graph each; with the kernel, equal to the last bit."""
    torch._dynamo.reset()
    fused_acts.compile_as(form)
    function = calls_of(names)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    bias, value = (random(8, dtype=torch.float32, seed=seed) for seed in (7, 8))
    try:
        for shape in ((4, 8), (6, 8))[: 1 + dynamic]:
            x, _, grad_out = operands(*shape, dtype=torch.float32)
            results = []
            for call in (compiled, function):
                leaves = [t.clone().requires_grad_() for t in (x, bias, value)]
                outs = call(*leaves)
                grads = torch.autograd.grad(outs, leaves, [grad_out] * len(outs))
                results.append([*(out.detach() for out in outs), *grads])
            for actual, expected in zip(*results, strict=True):
                assert form != "kernel" or same_bits(actual, expected)
                torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    finally:
        fused_acts.compile_as("kernel")
        torch._dynamo.reset()


def test_a_graph_holds_one_operator():
    class Module(torch.nn.Module):
        def forward(self, x):
            return fused_acts.gelu(x)

    x, _, _ = operands(4, 8, dtype=torch.float32)
    rows = torch.export.Dim("rows")
    exported = torch.export.export(Module(), (x,), dynamic_shapes=[{0: rows}])
    targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert targets == ["fused_acts.glu_forward.default"]
    other = random(9, 8, dtype=torch.float32, seed=5)
    assert same_bits(exported.module()(other), fused_acts.gelu(other))


def test_compiled_out():
    torch._dynamo.reset()
    x, bias, _ = operands(4, 8, dtype=torch.float32)

    def function(x, bias, out):
        fused_acts.mish(x, bias, out=out)
        return out * 2.0

    out = torch.empty_like(x)
    doubled = torch.compile(function, backend="aot_eager", fullgraph=True)(x, bias[0], out)
    expected = fused_acts.mish(x, bias[0])
    assert same_bits(out, expected) and same_bits(doubled, expected * 2.0)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(use_reentrant):
    x, _, grad_out = operands(4, 8, dtype=torch.float32)
    expected = fused("mish", x, None, grad_out)
    leaf = x.clone().requires_grad_()
    torch.utils.checkpoint.checkpoint(fused_acts.mish, leaf, use_reentrant=use_reentrant).backward(
        grad_out
    )
    assert same_bits(leaf.grad, expected.inputs[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_computes_in_the_dtype_of_x(dtype):
    """Rows of any dtype are taken; those in float32 lose nothing."""
    x, _, grad_out = operands(4, 8, dtype=dtype)
    rows = [random(8, dtype=torch.float32, seed=seed).requires_grad_() for seed in (4, 5)]

    def results(bias, beta):
        out = fused_acts.swish(x, bias, beta=beta)
        return [out.detach(), *torch.autograd.grad(out, (bias, beta), grad_out)]

    expected, plain = results(*rows), fused_acts.swish(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(same_bits, results(*rows), expected))
        assert same_bits(fused_acts.swish(x), plain)
        half = [row.detach().double().requires_grad_() for row in rows]
        out, *grads = results(*half)
    assert same_bits(out, expected[0]) and [g.dtype for g in grads] == [F64, F64]
