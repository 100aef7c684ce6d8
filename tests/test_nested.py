"""Nested tensors of the jagged layout: each part of them as the same tensor alone."""

import pytest
import torch
from cases import random, same_bits

import fused_acts
from fused_acts import nn

SIZES = (3, 0, 5)


def parts(cols, dtype=torch.float32, seed=1):
    return [random(n, cols, dtype=dtype, seed=seed + i) for i, n in enumerate(SIZES)]


def nested(tensors, like=None):
    if like is None:
        return torch.nested.nested_tensor(tensors, layout=torch.jagged, requires_grad=True)
    values = torch.cat(tensors)
    made = torch.nested.nested_tensor_from_jagged(values, offsets=like.offsets())
    return made.detach().requires_grad_()


def both(cols=8, dtype=torch.float32):
    gate = nested(parts(cols, dtype))
    return gate, nested(parts(cols, dtype, seed=9), gate)


SLOPE = torch.tensor(0.3)
BIAS = random(8, dtype=torch.float32, seed=3)
FUNCTIONS = {
    "gelu": lambda x: fused_acts.gelu(x),
    "gelu with a bias": lambda x: fused_acts.gelu(x, BIAS),
    "leaky_relu": lambda x: fused_acts.leaky_relu(x, negative_slope=0.3),
    "prelu": lambda x: fused_acts.prelu(x, slope=SLOPE),
    "packed": lambda x: fused_acts.swiglu(x, layout="interleaved"),
    "packed with a bias": lambda x: fused_acts.geglu(x, bias=BIAS),
    "eager": lambda x: fused_acts.swiglu(x, rounding="eager"),
    "maxout": lambda x: fused_acts.maxout(x, 2),
    "pair": lambda x: fused_acts.swiglu(x, x * 2),
    "softmax_glu": lambda x: fused_acts.softmax_glu(x, x * 2),
    "topk_geglu": lambda x: fused_acts.topk_geglu(x, x * 2, 0.4),
    "FFN": nn.GatedFFN(8, 16, bias=True),
    "FFN of modules": torch.nn.Sequential(nn.GatedFFN(8, 16), nn.GatedLinear(8, 4), nn.SiLU()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_part_is_as_alone(name):
    function = FUNCTIONS[name]
    x = nested(parts(8))
    out = function(x)
    assert out.is_nested and out.layout == torch.jagged and out.shape[:2] == x.shape[:2]
    (grad,) = torch.autograd.grad(out.values().square().sum(), x)
    alone = [part.requires_grad_() for part in parts(8)]
    results = [function(part) for part in alone]
    grads = torch.autograd.grad(sum(r.square().sum() for r in results), alone)
    for nested_one, dense in ((out, results), (grad, grads)):
        torch.testing.assert_close(nested_one.values(), torch.cat(dense), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_of_two_are_those_of_their_values(dtype):
    gate, up = both(dtype=dtype)
    out = fused_acts.geglu(gate, up)
    assert out.shape == gate.shape  # nested sizes are equal: what follows may add them
    assert same_bits(out.values(), fused_acts.geglu(gate.values(), up.values()))
    with torch.no_grad():
        assert same_bits(fused_acts.geglu(gate, up).values(), out.values())
    grads = torch.autograd.grad((out * up).values().sum(), (gate, up))
    assert all(grad.is_nested for grad in grads)


def test_under_autocast():
    gate, up = both()
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.GatedFFN(8, 16)(gate).dtype == torch.bfloat16
        assert fused_acts.swiglu(gate, up.bfloat16()).dtype == torch.float32


def test_compiled(fresh_dynamo):
    def function(gate, up):
        return fused_acts.swiglu(gate, up, limit=1.0)

    gate, up = both()
    out = torch.compile(function, fullgraph=True, backend="aot_eager")(gate, up)
    assert same_bits(out.values(), function(gate, up).values())
    grads = torch.autograd.grad(out.values().sum(), (gate, up))
    expected = torch.autograd.grad(function(gate, up).values().sum(), (gate, up))
    assert all(same_bits(a.values(), b.values()) for a, b in zip(grads, expected, strict=True))


def test_transposed():
    x = nested(parts(8)).detach()
    out = fused_acts.gelu(x.transpose(1, 2))
    assert same_bits(out.transpose(1, 2).values(), fused_acts.gelu(x.values()))
    with pytest.raises(ValueError, match="x: expected a last dimension of one size"):
        fused_acts.gelu(x.transpose(1, 2), BIAS)
    with pytest.raises(ValueError, match="gate: expected a last dimension of one size"):
        fused_acts.swiglu(x.transpose(1, 2))


def test_what_does_not_go_together():
    gate, up = both()
    with pytest.raises(ValueError, match="up: expected shape .* made with the same offsets"):
        fused_acts.swiglu(gate, nested(parts(8)))
    with pytest.raises(TypeError, match="gate: expected a nested tensor as the others"):
        fused_acts.swiglu(torch.ones(8, 8), up)
    with pytest.raises(TypeError, match="layout torch.jagged, got one of torch.strided"):
        fused_acts.gelu(torch.nested.nested_tensor(parts(8)))
    with pytest.raises(ValueError, match="out: expected none for nested tensors"):
        fused_acts.gelu(gate.detach(), out=torch.ones(8, 8))
    with pytest.raises(ValueError, match="dim: expected -1 with a nested tensor, got 1"):
        fused_acts.glu(gate, dim=1)
