"""reset_parameters, which FSDP calls of what was made on the meta device."""

import pytest
import torch

from fused_acts import nn

MODULES = {
    "swish learned": lambda: nn.Swish("learned"),
    "swish per channel": lambda: nn.Swish("per_channel", num_channels=4),
    "activation with a bias": lambda: nn.Activation("gelu", bias=True, num_channels=4),
    "prelu": lambda: nn.PReLU(4, 0.1),
    "gated activation": lambda: nn.GatedActivation("preglu", slope="learned"),
    "gated linear": lambda: nn.GatedLinear(8, 4),
    "gated linear without biases": lambda: nn.GatedLinear(8, 4, bias=False),
    "FFN": lambda: nn.GatedFFN(8, 16, bias=True),
    "FFN in two": lambda: nn.GatedFFN(8, 16, packed=False),
}


@pytest.mark.parametrize("name", MODULES)
def test_gives_the_values_of_construction(name):
    torch.manual_seed(3)
    expected = MODULES[name]().state_dict()
    with torch.device("meta"):
        module = MODULES[name]()
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    torch.manual_seed(3)
    module.reset_parameters()
    assert module.state_dict().keys() == expected.keys()
    for key, value in module.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_each_module_with_parameters_has_it():
    for make in MODULES.values():
        for module in make().modules():
            assert hasattr(module, "reset_parameters")


def test_a_projection_of_another_kind_keeps_its_values():
    ffn = nn.GatedFFN(8, 16)
    ffn.down_proj = torch.nn.Sequential(torch.nn.Linear(16, 8))
    before = ffn.down_proj[0].weight.clone()
    ffn.reset_parameters()
    assert torch.equal(ffn.down_proj[0].weight, before)
