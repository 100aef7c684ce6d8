"""nn.GatedLinear: one product, one kernel with both biases, and the values of the composition."""

import copy
import pickle

import pytest
import torch
from cases import DEVICES, VARIANTS, same_bits
from ffn_cases import Calls
from torch.nn.functional import glu, linear

import fused_acts
from fused_acts.nn import GatedLinear


def layer(*arguments, **options):
    torch.manual_seed(0)
    return GatedLinear(12, 20, *arguments, dtype=torch.float64, **options)


def tokens(*shape):
    torch.manual_seed(1)
    return torch.randn(*shape, 12, dtype=torch.float64)


def results(function, module, x):
    x = x.detach().requires_grad_()
    y = function(x)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], y.detach().cos())]


def near(actual, expected):
    return all(torch.allclose(a, e, rtol=1e-12) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bias", [True, False])
def test_the_unit_of_dauphin(bias, device):
    """torch.nn.functional.glu of nn.Linear, whose halves are the other way round."""
    module = layer(bias=bias, layout="up_gate")
    x = tokens(3, 4)
    expected = results(lambda x: glu(linear(x, module.weight, module.bias)), module, x)
    module = module.to(device)
    actual = results(module, module, x.to(device))
    assert near([a.cpu() for a in actual], expected)


@pytest.mark.parametrize("layout", ["gate_up", "up_gate", "interleaved"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_and_layouts(variant, layout):
    module = layer(variant, layout=layout)

    def composed(x):
        hidden = linear(x, module.weight, module.bias)
        return fused_acts.reference.gated(hidden, variant=variant, layout=layout)

    assert near(results(module, module, tokens(5)), results(composed, module, tokens(5)))


def test_one_product_and_one_kernel():
    module = layer()
    with Calls() as calls:
        y = module(tokens(3))
    assert calls.names == ["mm", "glu_forward_options"]
    with Calls() as calls:
        y.backward(torch.ones_like(y))
    assert calls.names == ["glu_backward_options", "mm"]


def test_first_values_are_those_of_linear():
    module = layer()
    torch.manual_seed(0)
    linear = torch.nn.Linear(12, 40, dtype=torch.float64)
    assert same_bits(module.weight, linear.weight) and same_bits(module.bias, linear.bias)


def test_autocast_keeps_the_bias_as_it_is():
    module, x = layer().float(), tokens(6).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    hidden = linear(x.bfloat16(), module.weight.bfloat16())
    assert same_bits(y, fused_acts.glu(hidden, bias=module.bias))
    y.sum().backward()
    assert {p.grad.dtype for p in module.parameters()} == {torch.float32}


def test_options_copies_and_text():
    module = layer("swiglu", bias=False, beta=1.5, limit=0.7)
    hidden = linear(tokens(4), module.weight)
    assert same_bits(module(tokens(4)), fused_acts.swiglu(hidden, beta=1.5, limit=0.7))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same_bits(other(tokens(4)), module(tokens(4)))
    assert repr(module) == (
        "GatedLinear(12, 20, variant='swiglu', bias=False, layout='gate_up', beta=1.5, limit=0.7)"
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="variant: expected one of"):
        layer("silu")
    with pytest.raises(ValueError, match="layout: expected one of"):
        layer(layout="halves")
    with pytest.raises(TypeError, match="slope: glu has no such option"):
        layer(slope=0.1)
