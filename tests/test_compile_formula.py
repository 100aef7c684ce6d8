"""compile_as("inductor"): the formula in the place of the kernel."""

import pytest
import torch
from cases import (
    PACKED,
    UNARY,
    as_inputs,
    forward_backward,
    gated,
    operands,
    own_layout,
    unpack,
)
from cases import ROWS as EVERY_ROW
from compile_cases import Graphs
from derivative_cases import of
from option_cases import biases, call, check_call, check_sums, oracle
from tolerances import FORWARD_ULPS, GRADIENT_FLOOR, GRADIENT_ULPS, check, close

import fused_acts

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def test_compile_as_chooses():
    graphs = Graphs()
    gate, up, _ = operands(4, 8, dtype=torch.bfloat16)
    leaves = [gate.requires_grad_(), up.requires_grad_()]
    compiled = torch.compile(fused_acts.swiglu, backend=graphs.backend(), fullgraph=True)
    counts = []
    for form in ("kernel", "inductor", "kernel"):
        fused_acts.compile_as(form)
        graphs.targets.clear()
        torch.autograd.grad(compiled(*leaves).sum(), leaves)
        counts.append((len(graphs.ours()), len(graphs.targets) > 4))
    assert counts == [(2, False), (0, True), (0, False)]  # at last it finds the first code again
    assert fused_acts.swiglu(*leaves).grad_fn is not None


def test_compile_as_refuses_other_forms():
    with pytest.raises(ValueError, match="^form: .*kernel.*inductor.*'triton'"):
        fused_acts.compile_as("triton")


# The formula that compile_as("inductor") traces is made of the tables' f and g. What it must give
# is what the C++ kernels give for the same numbers in float64, which share no line with it.
def kernel_in_float64(name, inputs, options, grad_out, **others):
    wide = {n: v.double() if isinstance(v, torch.Tensor) else v for n, v in options.items()}
    function = of(name, **others)[0]
    return call(function, [t.double() for t in inputs], wide, grad_out.double())


@pytest.mark.parametrize(
    "name, layout, options",
    [
        ("swiglu", "separate", {}),
        ("swiglu", "gate_up", {"beta": torch.tensor(0.8), "limit": 1.25}),
        ("elu_glu", "up_gate", {}),
        ("swiglu_oai", "interleaved", {}),
        ("swish", UNARY, {"beta": torch.tensor(0.8)}),
        ("softplus", UNARY, {}),
    ],
)
def test_the_formula(name, layout, options):
    """compile_as("inductor"), before Inductor: rounded once, so within the usual budgets."""
    options = options | biases(name, 34, torch.float32)
    gate, up, grad_out = operands(6, 34, dtype=torch.bfloat16)
    inputs = as_inputs(gate, up, layout)
    right = kernel_in_float64(name, inputs, options, grad_out, layout=layout)
    fused_acts.compile_as("inductor")
    function = of(name, layout=layout)[0]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    result = call(compiled, inputs, options, grad_out)
    check(result.out, right.out, FORWARD_ULPS[torch.bfloat16])
    exact = oracle(name, gate, up, options, grad_out)
    right = right._replace(options={n: right.options[n] for n in exact.called.options})
    check_sums(result, exact._replace(called=right), 34)
    split = (lambda t: list(unpack(t, layout))) if layout in PACKED else (lambda t: [t])
    grads = [half for grad in result.inputs for half in split(grad)]
    rights = [half for grad in right.inputs for half in split(grad)]
    for grad, expected, scale in zip(grads, rights, exact.scales, strict=True):
        check(grad, expected, GRADIENT_ULPS[torch.bfloat16], scale * GRADIENT_FLOOR)


def test_every_formula():
    """Both passes in float64, of every row."""
    gate, up, grad_out = operands(3, 6, dtype=torch.float64)
    expected = [forward_backward(name, gate, up, grad_out).tensors() for name in EVERY_ROW]
    fused_acts.compile_as("inductor")

    def every(gate, up):
        inputs = {name: as_inputs(gate, up, own_layout(name)) for name in EVERY_ROW}
        return [gated(name, inputs[name]) for name in EVERY_ROW]

    compiled = torch.compile(every, backend="aot_eager", fullgraph=True)
    leaves = [gate.requires_grad_(), up.requires_grad_()]
    for name, out, (right, *grads) in zip(EVERY_ROW, compiled(*leaves), expected, strict=True):
        given = torch.autograd.grad(out, leaves[: len(grads)], grad_out, retain_graph=True)
        close([out.detach(), *given], [right, *grads])
        assert out.grad_fn is not None, name


def test_the_formula_by_inductor():
    """Both passes within the budgets, in the code that Inductor makes of them."""
    fused_acts.compile_as("inductor")
    gate, up, grad_out = operands(6, 32, dtype=torch.bfloat16)
    compiled = torch.compile(fused_acts.swiglu, fullgraph=True)
    result = call(compiled, (gate, up), {"limit": 1.25}, grad_out)
    check_call(result, oracle("swiglu", gate, up, {"limit": 1.25}, grad_out))


@pytest.mark.parametrize("form", ["kernel", "inductor"])
def test_under_autocast(form):
    """Mixed dtypes of gate and up promote, whichever way it is compiled."""
    fused_acts.compile_as(form)
    gate, up, _ = operands(4, 8, dtype=torch.float32)
    bias = torch.ones(8, dtype=torch.float16)
    compiled = torch.compile(fused_acts.swiglu, backend="aot_eager", fullgraph=True)
    for options in ({}, {"gate_bias": bias}):
        with torch.autocast("cpu", torch.bfloat16):
            out = compiled(gate, up.bfloat16(), **options)
            expected = fused_acts.swiglu(gate, up.bfloat16(), **options)
        assert out.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(out, expected)
