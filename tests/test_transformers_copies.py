"""Copies of a patched model, and of its modules, run their own weights."""

import copy
import io

import pytest
import torch
from test_transformers_patch import FAMILIES, calls_of, logits_of
from transformers_cases import FusedCalls, make

from fused_acts.integrations.transformers import patch, unpatch


def deep_copy(model):
    return copy.deepcopy(model)


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def shallow_copy(model):
    """copy.copy of every module, around parameters of its own."""
    other = copy.copy(model)
    other._parameters = {
        name: None if p is None else torch.nn.Parameter(p.clone())
        for name, p in model._parameters.items()
    }
    other._modules = {name: shallow_copy(module) for name, module in model._modules.items()}
    return other


@pytest.mark.parametrize("copied", [deep_copy, through_a_file, shallow_copy])
@pytest.mark.parametrize("family", FAMILIES)
def test_copies_are_patched_apart(family, copied):
    model = make(family)
    patch(model)
    logits, count = logits_of(model, family), calls_of(model, family)
    other = copied(model)
    assert torch.equal(logits_of(other, family), logits)
    assert calls_of(other, family) == count > 0
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(logits_of(other, family), logits)
    assert torch.equal(logits_of(model, family), logits)
    unpatch(other)
    assert (calls_of(other, family), calls_of(model, family)) == (0, count)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_replicas_of_data_parallel_run_their_own_weights(family):
    model = make(family)
    mlp = model.model.layers[0].mlp
    module = mlp if family == "llama" else mlp.experts
    patch(module)
    replica = module._replicate_for_data_parallel()
    replica._modules = {n: copy.deepcopy(m) for n, m in module._modules.items()}
    replica._parameters = {n: torch.zeros_like(p) for n, p in module._parameters.items()}
    for parameter in replica.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.ones(5, 32)
    args = (x,) if family == "llama" else (x, torch.tensor([[0, 1]] * 5), torch.rand(5, 2))
    with FusedCalls() as calls:
        assert not replica(*args).any() and module(*args).any()
    assert calls.count > 1


def test_the_class_is_that_of_before_to_whoever_asks():
    model = make("llama")
    mlp = model.model.layers[0].mlp
    kind, text = type(mlp), str(model)
    patch(model)
    assert isinstance(mlp, kind) and type(mlp) is type(model.model.layers[1].mlp)
    assert (type(mlp).__name__, type(mlp).__module__) == (kind.__name__, kind.__module__)
    assert str(model) == text
    unpatch(model)
    assert type(mlp) is kind


def test_unpatched_below_a_class_derived_since():
    """As FSDP2 changes the class of what it wraps."""
    mlp = make("llama").model.layers[0].mlp
    patch(mlp)
    mlp.__class__ = type("Sharded", (type(mlp),), {})
    x = torch.randn(5, 32)
    counts = []
    for change in (lambda mlp: None, unpatch, patch):
        change(mlp)
        with FusedCalls() as calls:
            mlp(x)
        counts.append(calls.count)
    assert counts == [1, 0, 1]
