"""nn.Activation: any activation as a module, with a bias or a parameter that it learns."""

import pytest
import torch
from cases import ACTIVATIONS, ROWS, operands, same_bits
from option_cases import PARAMETRIC, fused, parameter
from test_nn_activations import copies

from fused_acts import nn


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_generic(name):
    x, bias, grad_out = operands(6, 33, dtype=torch.float32)
    plain = nn.Activation(name)
    assert same_bits(plain(x), fused(name, x, x, {}).out) and not plain.state_dict()
    assert repr(plain) == f"Activation(name='{name}')"

    biased = nn.Activation(name, bias=True, num_channels=33)
    assert list(biased.state_dict()) == ["bias"] and (biased.bias == 0).all()
    with torch.no_grad():
        biased.bias.copy_(bias[0])
    expected = fused(name, x, x, {"bias": bias[0]}, grad_out)
    for copied in copies(biased):
        assert repr(copied) == f"Activation(name='{name}', bias=True, num_channels=33)"
        out = copied(x)
        (grad,) = torch.autograd.grad(out, copied.bias, grad_out)
        assert same_bits(out.detach(), expected.out) and same_bits(grad, expected.options["bias"])


@pytest.mark.parametrize("kind", ["learned", "per_channel"])
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name in PARAMETRIC])
def test_generic_with_a_parameter(name, kind):
    x, _, grad_out = operands(6, 33, dtype=torch.bfloat16)
    number = nn.Activation(name, **parameter(name, 0.6))
    assert same_bits(number(x), fused(name, x, x, parameter(name, 0.6)).out)
    own = [*ROWS[name].parameters]
    written = ", ".join(f"{option}=0.6" for option in own)
    assert repr(number) == f"Activation(name='{name}', {written})"

    module = nn.Activation(name, bias=True, num_channels=33, **parameter(name, kind))
    assert sorted(module.state_dict()) == sorted([*own, "bias"])
    learned = [getattr(module, option) for option in own]
    for tensor, value in zip(learned, ROWS[name].parameters.values(), strict=True):
        assert tensor.shape == ((33,) if kind == "per_channel" else (1,))
        assert (tensor == torch.tensor(value)).all() and tensor.dtype == torch.float32
    rows = {"bias": module.bias.detach()}
    rows |= {option: tensor.detach() for option, tensor in zip(own, learned, strict=True)}
    expected = fused(name, x, x, rows, grad_out)
    out = module(x)
    grads = torch.autograd.grad(out, [module.bias, *learned], grad_out)
    assert same_bits(out.detach(), expected.out)
    assert all(map(same_bits, grads, expected.options.values()))
    other = nn.Activation(name, bias=True, num_channels=33, **parameter(name, kind))
    with torch.no_grad():
        for tensor in learned:
            tensor.mul_(1.5)
    other.load_state_dict(module.state_dict())
    assert same_bits(other(x).detach(), module(x).detach())


def test_generic_checks_its_arguments_at_once():
    module = nn.Activation
    for arguments, error, match in (
        ({"name": "gelu_"}, ValueError, "^name: .*gelu_tanh.*'gelu_'"),
        ({"name": "gelu", "bias": True}, ValueError, "^num_channels: "),
        ({"name": "swish", "beta": "per_channel"}, ValueError, "^num_channels: "),
        ({"name": "swish", "beta": "trained"}, TypeError, "^beta: "),
        ({"name": "swish", "beta": torch.ones(3)}, TypeError, "^beta: "),
        ({"name": "swish", "slope": "learned"}, TypeError, "^slope: "),
        ({"name": "gelu", "alpha": 1.0}, TypeError, "^alpha: "),
    ):
        with pytest.raises(error, match=match):
            module(**arguments)


def test_device_and_dtype():
    module = nn.Activation(
        "swish", True, num_channels=8, beta="learned", device="meta", dtype=torch.bfloat16
    )
    for tensor in module.parameters():
        assert tensor.device.type == "meta" and tensor.dtype == torch.bfloat16
    assert nn.Swish("learned", dtype=torch.float64).beta.dtype == torch.float64
