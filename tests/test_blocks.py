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


def both_ways(gate, up, grad_out, block, variant, place=lambda t: t, **options):
    """[(out, gradients by x and by options)] of two tensors, and of one in blocks."""
    results = []
    for inputs, given in (
        ((gate, up), {}),
        ((place(packed(gate, up, block)),), {"layout": "interleaved", "block": block}),
    ):
        leaves = [t.detach().requires_grad_() for t in inputs]
        tensors = {n: v.clone().requires_grad_() for n, v in options.items() if torch.is_tensor(v)}
        named = {**options, **tensors}
        if given and "gate_bias" in named:
            named["bias"] = packed(named.pop("gate_bias"), named.pop("up_bias"), block)
        out = fused_acts.gated(*leaves, variant=variant, **given, **named)
        grads = torch.autograd.grad(out, [*leaves, *tensors.values()], grad_out)
        by_inputs, by_options = grads[: len(leaves)], grads[len(leaves) :]
        x = packed(*by_inputs, block) if len(by_inputs) == 2 else by_inputs[0]
        results.append((out.detach(), x, *by_options))
    return results


def check(results):
    for one, other in zip(*results, strict=True):
        assert same_bits(one, other)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, cols, block", SHAPES)
def test_every_option(rows, cols, block, dtype, device):
    tensors = [to_device(t, device) for t in operands(rows, cols, dtype=dtype)]
    check(both_ways(*tensors, block, "swiglu"))
    check(both_ways(*tensors, block, "swiglu_oai", limit=1.5, weight=0.75))
    bias = random(cols, dtype=dtype, seed=5).to(device)
    biases = {"gate_bias": bias, "up_bias": bias.flip(0)}
    check(both_ways(*tensors, block, "geglu_tanh", **biases))
    learned = torch.linspace(0.5, 1.5, cols, dtype=dtype).to(device)
    check(both_ways(*tensors, block, "swiglu", beta=learned, limit=2.0, **biases))
    check(both_ways(*tensors, block, "situ_glu", **parameter("situ_glu", learned)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_unit(variant, device):
    tensors = [to_device(t, device) for t in operands(3, 4, 96, dtype=torch.bfloat16)]
    for options in ({}, *numbers_for(variant)[:1]):
        check(both_ways(*tensors, 32, variant, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_are_not_dense_are_read_in_place(dtype, device):
    tensors = [to_device(t, device) for t in operands(6, 96, dtype=dtype)]

    def apart(x):
        wide = torch.full((6, 200), float("nan"), dtype=dtype, device=device)
        return wide[:, 3:195].copy_(x)

    for options in ({}, {"beta": 1.5}):
        check(both_ways(*tensors, 32, "swiglu", place=apart, **options))


@pytest.mark.parametrize("device", DEVICES)
def test_out_and_in_place(device):
    gate, up, grad_out = (to_device(t, device) for t in operands(6, 96, dtype=torch.bfloat16))
    x = packed(gate, up, 32)
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
