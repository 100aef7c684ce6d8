"""Numbers that change between the calls of compiled code, and one tensor as several arguments."""

import pytest
import torch
from cases import operands, same_bits
from torch._dynamo.testing import CompileCounterWithBackend

import fused_acts
from fused_acts import nn

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

VALUES = [0.5 + 0.25 * i for i in range(12)]
# What a call makes of a number s, itself or computed.
CALLS = {
    "slope": lambda g, u, s: fused_acts.leaky_relu(g * s, negative_slope=s * 0.1),
    "beta": lambda g, u, s: fused_acts.swiglu(g, u, beta=s),
    "alpha": lambda g, u, s: fused_acts.elu_glu(g, u, alpha=s + 0.1),
    "limit": lambda g, u, s: fused_acts.swiglu(g, u, limit=s),
    "both": lambda g, u, s: fused_acts.swiglu_oai(g, u, limit=s * 0.5, alpha=s),
    "weight": lambda g, u, s: fused_acts.relu(g, weight=s),
    "caps": lambda g, u, s: fused_acts.situ_glu(g, u, beta=s, linear_beta=s * 2.0, weight=s),
    "one a tensor": lambda g, u, s: fused_acts.xielu(g, alpha_p=s, alpha_n=u[0].abs()),
    "bias": lambda g, u, s: fused_acts.softplus(g, u[0], beta=s),
    "eager": lambda g, u, s: fused_acts.swiglu(g, u, limit=s, rounding="eager"),
    "save": lambda g, u, s: fused_acts.swiglu(g, u, beta=s, save="fp8_block128"),
    "ffn": lambda g, u, s: block(g, s),
}


torch.manual_seed(0)
BLOCK = nn.GatedFFN(8, 6, "geglu", bias=True, limit=1.0)


def block(x, limit):
    BLOCK.options["limit"] = limit
    return BLOCK(x)


def results(function, gate, up, number, grad):
    leaves = [t.detach().clone().requires_grad_(grad) for t in (gate, up)]
    out = function(*leaves, number)
    if not grad:
        return [out.detach()]
    grads = torch.autograd.grad(out.sum(), leaves, allow_unused=True)
    return [out.detach(), *(g for g in grads if g is not None)]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_a_number_that_changes(name, grad):
    """Not stale, and in 3 graphs at most, as for torch's own functions, whatever its values."""
    # Before 2.13 torch compiles s + 0.1 anew for each value, in x * (s + 0.1) too.
    once = name != "alpha" or torch.__version__ >= "2.13"  # by its parts, as versions go
    counter = CompileCounterWithBackend("aot_eager")
    gate, up, _ = operands(3, 8, dtype=torch.float32)
    compiled = torch.compile(CALLS[name], backend=counter, fullgraph=once)
    for value in VALUES:
        with torch.set_grad_enabled(grad):
            given = results(compiled, gate, up, value, grad)
        expected = results(CALLS[name], gate, up, value, grad)
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one, other)
    assert counter.frame_count <= 3 or not once


@pytest.mark.parametrize("form", ["kernel", "inductor"])
def test_by_inductor(form):
    fused_acts.compile_as(form)
    gate, up, _ = operands(3, 8, dtype=torch.bfloat16)
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(CALLS["both"], backend=counter, fullgraph=True)
    for value in VALUES[:5]:
        for one, other in zip(
            *(results(f, gate, up, value, True) for f in (compiled, CALLS["both"])), strict=True
        ):
            torch.testing.assert_close(one, other)
    assert counter.frame_count <= 3


@pytest.mark.parametrize("form", ["kernel", "inductor"])
def test_an_attribute_that_changes(form):
    fused_acts.compile_as(form)
    module = nn.LeakyReLU()
    x, _, _ = operands(3, 8, dtype=torch.float32)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for value in VALUES[:6]:
        module.negative_slope = value
        torch.testing.assert_close(compiled(x), torch.nn.functional.leaky_relu(x, value))


def test_the_kernel_takes_the_number():
    """To the last bit, also where all numbers are symbols."""
    gate, up, _ = operands(3, 8, dtype=torch.bfloat16)
    compiled = torch.compile(CALLS["both"], backend="aot_eager", fullgraph=True, dynamic=True)
    for value in VALUES:
        given = results(compiled, gate, up, value, True)
        assert all(map(same_bits, given, results(CALLS["both"], gate, up, value, True)))


def test_out():
    gate, up, _ = operands(3, 8, dtype=torch.float32)
    out = torch.empty_like(gate)

    def function(s):
        return fused_acts.swiglu(gate, up, limit=s, beta=s * 0.5, out=out)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for value in VALUES[:5]:
            compiled(value)
            torch.testing.assert_close(
                out, fused_acts.swiglu(gate, up, limit=value, beta=value * 0.5)
            )


def same_gradients(function, leaves):
    """Compiled in one graph as without."""
    expected = torch.autograd.grad(function().sum(), leaves)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for one, other in zip(torch.autograd.grad(compiled().sum(), leaves), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_one_tensor_as_several_arguments():
    x, other, _ = (t.requires_grad_() for t in operands(3, 8, dtype=torch.float32))
    bias = torch.ones(8, requires_grad=True)
    row = torch.ones(8).requires_grad_()
    same_gradients(lambda: fused_acts.glu(x, x), [x])
    same_gradients(lambda: fused_acts.softmax_glu(x, x), [x])
    same_gradients(
        lambda: fused_acts.swiglu(x, other, gate_bias=bias, up_bias=bias, beta=bias), [x, bias]
    )
    same_gradients(lambda: fused_acts.glu(row, row, gate_bias=row), [row])
    same_gradients(lambda: fused_acts.prelu(x, bias, slope=bias), [x, bias])


@pytest.mark.parametrize("recompute", ["none", "product", "all"])
def test_tied_weights(recompute):
    module = nn.GatedFFN(8, 8, packed=False, bias=True, recompute=recompute)
    module.up_proj.weight = module.gate_proj.weight
    module.up_proj.bias = module.gate_proj.bias
    module.down_proj.weight = module.gate_proj.weight
    x = torch.randn(3, 8, requires_grad=True)
    same_gradients(lambda: module(x), [x, module.gate_proj.weight, module.gate_proj.bias])
