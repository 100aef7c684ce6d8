"""Two devices in one process: modules and their replicas run where their operands are."""

import copy
import os

import pytest
import torch
from cases import same_bits
from subprocess_runner import run_alone

from fused_acts import nn

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        "SOFTGPU_HOME" not in os.environ and torch.cuda.device_count() < 2,
        reason="one CUDA device, and no second in software",
    ),
]


class Halves(nn.SoftmaxGLU):
    def forward(self, x):
        return super().forward(*x.chunk(2, -1))


class NormedHalves(nn.RMSNormGated):
    def forward(self, x):
        return super().forward(*x.chunk(2, -1))


def modules():
    """{name: a module of [..., 32]}"""
    torch.manual_seed(0)
    return {
        "ffn": nn.GatedFFN(32, 48, bias=True),
        "ffn, separate": nn.GatedFFN(32, 48, "geglu", packed=False, recompute="none"),
        "ffn, all": nn.GatedFFN(32, 48, "reglu", recompute="all", limit=1.0),
        "linear": nn.GatedLinear(32, 16),
        "activation": nn.GatedActivation("swiglu", "interleaved", beta="learned"),
        "alone": nn.Activation("gelu", bias=True, num_channels=32),
        "maxout": nn.Maxout(4),
        "softmax_glu": Halves(),
        "rms_norm_gated": NormedHalves(16, group_size=8),
    }


def patched():
    from transformers_cases import make

    from fused_acts.integrations.transformers import patch

    model = make("llama")
    assert "2 times" in str(patch(model))
    return {"llama": model.model.layers[0].mlp}


def replica_on(device, module):
    """As torch.nn.parallel.replicate makes them: the parameters are copies that autograd knows."""
    replica = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        setattr(replica, name, None if parameter is None else parameter.to(device))
    for name, child in module._modules.items():
        setattr(replica, name, replica_on(device, child))
    return replica


def gradients(module, x, leaves):
    """The output, its gradients by x and the leaves, and those of the gradient's square by x."""
    x = x.clone().requires_grad_()
    out = module(x)
    grads = torch.autograd.grad(out.square().sum(), [x, *leaves], retain_graph=True)
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return [out, *grads, second]


def use_replicas(made):
    """made: the name of what makes the modules."""
    for name, module in globals()[made]().items():
        module.to("cuda:0")
        leaves = [*module.parameters()]
        x = torch.linspace(-2, 2, 5 * 32).view(5, 32).to("cuda:0")
        expected = gradients(module, x, leaves)
        for current in (0, 1):
            torch.cuda.set_device(current)
            moved = copy.deepcopy(module).to("cuda:1")
            for other, own in (
                (replica_on("cuda:1", module), leaves),
                (moved, [*moved.parameters()]),
            ):
                results = gradients(other, x.to("cuda:1"), own)
                assert results[0].device == torch.device("cuda:1"), name
                for one, two in zip(results, expected, strict=True):
                    assert same_bits(one.cpu(), two.cpu()), name
            assert torch.cuda.current_device() == current


@pytest.mark.parametrize("made", ["modules", "patched"])
def test_replicas(made):
    """Those of torch.nn.DataParallel, whichever device is current, which stays so."""
    if made == "patched":
        pytest.importorskip("transformers")
    run_alone(use_replicas, made, SOFTGPU_DEVICES="2")
