"""Autocast: what is promoted, what is computed in the dtype of its inputs, what loses nothing."""

import pytest
import torch
from cases import KINDS, forward_backward, operands, random, same_bits
from ffn_cases import LEVELS, block, composed, tokens

import fused_acts

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_computes_an_activation_in_the_dtype_of_x(dtype):
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
    assert same_bits(out, expected[0]) and {g.dtype for g in grads} == {torch.float64}


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


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("recompute", LEVELS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_backward_pass_of_a_block_is_in_the_dtypes_of_its_forward(recompute, bias, create_graph):
    """The forward pass outside autocast, or where it is disabled; the backward pass inside."""
    ffn = block(dtype=torch.float32, recompute=recompute, bias=bias)
    x = tokens(dtype=torch.float32)
    leaves = [x.requires_grad_(), *ffn.parameters()]
    expected = torch.autograd.grad(ffn(x).sum(), leaves, create_graph=create_graph)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            y = ffn(x)
        grads = torch.autograd.grad(y.sum(), leaves, create_graph=create_graph)
    assert all(map(same_bits, grads, expected))
    reference = torch.autograd.grad(composed(ffn, x).sum(), leaves)
    torch.testing.assert_close(grads, reference, rtol=1e-4, atol=1e-4)


def test_a_forward_pass_of_a_block_under_autocast_and_its_backward_outside():
    ffn, x = block(dtype=torch.float32), tokens(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ffn(x.requires_grad_())
        inside = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert same_bits(*inside, *torch.autograd.grad(y.sum(), x))


@pytest.mark.parametrize("name", KINDS)
def test_derivatives_of_units_are_the_same_under_autocast(name):
    gate, up, grad_out = operands(4, 8, dtype=torch.float32)

    def second():
        leaves = [gate.clone().requires_grad_(), up.clone().requires_grad_()]
        function = getattr(fused_acts, name)
        inputs = leaves if name in fused_acts.variants() else leaves[:1]
        grads = torch.autograd.grad(function(*inputs).sum(), inputs, create_graph=True)
        return torch.autograd.grad(grads[0].square().sum(), inputs)

    expected = [*forward_backward(name, gate, up, grad_out).tensors(), *second()]
    with torch.autocast("cpu", torch.bfloat16):
        results = [*forward_backward(name, gate, up, grad_out).tensors(), *second()]
    assert all(map(same_bits, results, expected))
