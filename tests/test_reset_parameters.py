"""reset_parameters, which FSDP calls of what was made on the meta device."""

import pytest
import torch
from subprocess_runner import run_alone
from torch import distributed

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
    "experts": lambda: nn.GatedExperts(4, 8, 16, bias=True),
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


def wrap_all():
    from torch.distributed.fsdp import FullyShardedDataParallel

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    for make in MODULES.values():
        with torch.device("meta"):
            module = make()
        FullyShardedDataParallel(module, device_id=torch.device("cpu"))
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="torch was built without distributed")
def test_fsdp_makes_each_module_from_the_meta_device():
    run_alone(wrap_all)


@pytest.mark.parametrize("module", [nn.Swish("learned"), nn.GatedActivation(beta="learned")])
def test_a_single_value_of_a_checkpoint_may_have_no_dimension(module):
    module.load_state_dict({"beta": torch.tensor(0.25)})
    assert module.beta.tolist() == [0.25] and "num_channels" not in str(module)
    assert "beta='learned'" in str(module)
