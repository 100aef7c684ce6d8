"""Gate and up in turns of several columns: the same bits as of two tensors."""

import pytest
import torch
from cases import CUDA, DTYPES, VARIANTS, operands, random, same_bits, to_device
from option_cases import numbers_for, parameter

import fused_acts

DEVICES = ("cpu", CUDA)
SHAPES = [(5, 96, 32), (3, 7 * 6, 3), (2, 2 * 2048, 2048), (1, 64, 16), (4, 12, 12), (37, 1280, 64)]


def packed(gate, up, block):
    """As the columns are described: of gate k at (k / block) * 2 * block + k % block."""
    cols = torch.arange(gate.shape[-1], device=gate.device)
    at = cols // block * 2 * block + cols % block
    x = torch.empty((*gate.shape[:-1], 2 * gate.shape[-1]), dtype=gate.dtype, device=gate.device)
    x[..., at], x[..., at + block] = gate, up
    return x


def both_ways(tensors, block, variant, device, place=lambda t: t, **options):
    """[(out, gradients by x and by options)] of two tensors, and of one in blocks; on the CPU."""
    gate, up, grad_out = tensors
    results = []
    for inputs, given in (
        ((gate, up), {}),
        ((packed(gate, up, block),), {"layout": "interleaved", "block": block}),
    ):
        leaves = [place(to_device(t, device)).detach().requires_grad_() for t in inputs]
        named = {**options}
        if given and "gate_bias" in named:
            named["bias"] = packed(named.pop("gate_bias"), named.pop("up_bias"), block)
        learned = [name for name, value in named.items() if torch.is_tensor(value)]
        named |= {name: to_device(named[name], device).requires_grad_() for name in learned}
        out = fused_acts.gated(*leaves, variant=variant, **given, **named)
        wanted = [*leaves, *(named[name] for name in learned)]
        grads = torch.autograd.grad(out, wanted, to_device(grad_out, device))
        by_inputs, by_options = (
            [t.cpu() for t in some] for some in (grads[: len(leaves)], grads[len(leaves) :])
        )
        found = dict(zip(learned, by_options, strict=True))
        if "gate_bias" in found:
            found["bias"] = packed(found.pop("gate_bias"), found.pop("up_bias"), block)
        x = packed(*by_inputs, block) if len(by_inputs) == 2 else by_inputs[0]
        results.append((out.detach().cpu(), x, *(found[name] for name in sorted(found))))
    return results


def check(results):
    for one, other in zip(*results, strict=True):
        assert same_bits(one, other)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, cols, block", SHAPES)
def test_every_option(rows, cols, block, dtype, device):
    tensors = operands(rows, cols, dtype=dtype)
    bias = random(cols, dtype=dtype, seed=5)
    biases = {"gate_bias": bias, "up_bias": bias.flip(0)}
    learned = torch.linspace(0.5, 1.5, cols, dtype=dtype)
    for variant, options in (
        ("swiglu", {}),
        ("swiglu_oai", {"limit": 1.5, "weight": 0.75}),
        ("geglu_tanh", biases),
        ("swiglu", {"beta": learned, "limit": 2.0, **biases}),
        ("situ_glu", parameter("situ_glu", learned)),
    ):
        check(both_ways(tensors, block, variant, device, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_unit(variant, device):
    tensors = operands(3, 4, 96, dtype=torch.bfloat16)
    for options in ({}, *numbers_for(variant)[:1]):
        check(both_ways(tensors, 32, variant, device, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_are_not_dense_are_read_in_place(dtype, device):
    def apart(x):
        wide = torch.full((6, 200), float("nan"), dtype=dtype, device=device)
        return wide[:, 3 : 3 + x.shape[1]].copy_(x)

    for options in ({}, {"beta": 1.5}):
        tensors = operands(6, 96, dtype=dtype)
        check(both_ways(tensors, 32, "swiglu", device, place=apart, **options))


@pytest.mark.parametrize("device", DEVICES)
def test_out_and_in_place(device):
    every = operands(6, 96, dtype=torch.bfloat16)
    gate, up, grad_out, x = (to_device(t, device) for t in (*every, packed(*every[:2], 32)))
    blocks = {"layout": "interleaved", "block": 32}
    out = torch.empty_like(gate)
    assert fused_acts.swiglu(x, out=out, **blocks) is out
    assert same_bits(out, fused_acts.swiglu(gate, up))
    for over in (x[:, :96], x[:, 5:101]):
        with pytest.raises(ValueError, match="^out: expected the memory of x exactly"):
            fused_acts.swiglu(x, out=over, **blocks)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(fused_acts.swiglu(leaf, **blocks), leaf, grad_out)
    inner = leaf * 1
    out = fused_acts.swiglu(inner, inplace_backward=True, **blocks)
    (grad,) = torch.autograd.grad(out, inner, grad_out)
    assert same_bits(grad, expected) and grad.data_ptr() == inner.data_ptr()


def test_derivatives_and_transforms():
    gate, up, _ = operands(2, 3, 12, dtype=torch.float64)
    x = packed(gate, up, 4)

    def function(x):
        return fused_acts.swiglu(x, layout="interleaved", block=4)

    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(function, leaf)
    assert torch.autograd.gradgradcheck(function, leaf)
    expected = fused_acts.swiglu(gate, up)
    assert torch.equal(torch.func.vmap(function)(x), expected)
    of_reference = fused_acts.reference.gated(x, layout="interleaved", block=4)
    torch.testing.assert_close(of_reference, expected)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    # by its columns, with a dimension that is not the last
    moved = fused_acts.swiglu(x.transpose(1, 2), dim=1, layout="interleaved", block=4)
    assert torch.equal(moved, expected.transpose(1, 2))


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"block": 0}, ValueError, "block: expected at least 1"),
        ({"block": 2.0}, TypeError, "block: expected an integer"),
        ({"block": True}, TypeError, "block: expected an integer"),
        (
            {"block": 2, "layout": "gate_up"},
            ValueError,
            "block: expected 1 with the layout gate_up",
        ),
        ({"block": 5}, ValueError, "x: expected a last dimension of whole blocks, 2 [*] 5 each"),
    ],
)
def test_errors(options, error, text):
    with pytest.raises(error, match=f"^{text}"):
        fused_acts.swiglu(torch.zeros(2, 24), **{"layout": "interleaved", **options})
    with pytest.raises(ValueError, match="^layout: expected gate_up with two tensors"):
        fused_acts.swiglu(torch.zeros(2, 24), torch.zeros(2, 24), layout="interleaved", block=2)
