"""The installed package as a local repository of layers for the package `kernels`."""

import copy
import inspect
import json

import pytest
import torch
from tolerances import check_model
from transformers_cases import FusedCalls, check_runs, make, run

import fused_acts.integrations.kernels as ours

kernels = pytest.importorskip("kernels")
MODE = kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE


def kernelized(family, name, device="cpu"):
    """A model whose MLPs have this layer, and the same without."""
    model = make(family)
    before = copy.deepcopy(model)
    kind = type("MLP", (type(model.model.layers[0].mlp),), {})
    kernels.replace_kernel_forward_from_hub(kind, name)
    for layer in model.model.layers:
        layer.mlp.__class__ = kind
    with kernels.use_kernel_mapping(ours.mapping(), inherit_mapping=False):
        return kernels.kernelize(model, mode=MODE, device=device), before


@pytest.mark.parametrize(("family", "name"), [("llama", "SwiGLUMLP"), ("gemma", "GeGLUMLP")])
def test_models(family, name):
    model, before = kernelized(family, name)
    for layer in model.model.layers:
        assert layer.mlp.forward.__func__.__qualname__ == f"{name}.forward"
    with FusedCalls() as calls:
        after = run(model, family)
    assert calls.count == 2
    check_runs(after, run(before, family))


def test_on_cuda(monkeypatch):
    """The device is what the layers are chosen by; they run where the numbers are."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    model, before = kernelized("llama", "SwiGLUMLP", "cuda")
    x = torch.randn(5, 32)
    with FusedCalls() as calls:
        check_model(model.model.layers[0].mlp(x), before.model.layers[0].mlp(x))
    assert calls.count == 1


def test_what_the_folder_says():
    said = json.loads((ours.REPOSITORY / "metadata.json").read_text())
    assert (said["name"], said["license"], said["python-depends"]) == (
        "fused-acts",
        "Apache-2.0",
        [],
    )
    defined = {
        n
        for n, c in vars(ours.layers).items()
        if inspect.isclass(c) and c.__module__ == ours.layers.__name__
    }
    assert ours.mapping().keys() == defined
    assert all(devices.keys() == {"cpu", "cuda"} for devices in ours.mapping().values())
