"""Checks of experts under torch's own parallelism; run by test_distributed.py."""

import copy

import pytest
import torch
from cases import random
from distributed_models import assert_same_gradients, own_part, same_everywhere, whole
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

from fused_acts.distributed import ExpertParallel
from fused_acts.nn import GatedExperts

EXPERTS, D_MODEL, D_FF, TOKENS, K = 4, 6, 8, 10, 2
LEVELS = ("none", "product", "all")


def mixture(recompute="product"):
    module = GatedExperts(EXPERTS, D_MODEL, D_FF, bias=True, recompute=recompute)
    return same_everywhere(module)


def routed(seed=0):
    """[(x, ids, weights)] of all processes; some ids are of no expert."""
    x = random(TOKENS, D_MODEL, dtype=torch.float64, seed=seed)
    torch.manual_seed(seed)
    ids = torch.rand(TOKENS, EXPERTS + 2).argsort(1)[:, :K] - 1
    return x, ids, torch.rand(TOKENS, K, dtype=torch.float64)


def trained(model, x, ids, weights):
    """The output, and the gradients by x and weights of a loss that is a sum over tokens."""
    x, weights = x.detach().requires_grad_(), weights.detach().requires_grad_()
    out = model(x, ids, weights)
    (out * out).sum().backward()
    return out.detach(), x.grad, weights.grad


def check_ddp(mesh: DeviceMesh) -> None:
    data_parallel(mesh, lambda model: DistributedDataParallel(model))


def check_fsdp(mesh: DeviceMesh) -> None:
    data_parallel(mesh, lambda model: fully_shard(model, mesh=mesh))


def data_parallel(mesh, wrap):
    for level in LEVELS:
        single = mixture(level)
        model = wrap(copy.deepcopy(single))
        expected = trained(single, *routed())
        actual = trained(model, *(own_part(mesh, t, 0) for t in routed()))
        torch.testing.assert_close(actual[0], own_part(mesh, expected[0], 0))
        for parameter in single.parameters():
            parameter.grad /= mesh.size()
        assert_same_gradients(model, single)


def parallel(module, mesh):
    return parallelize_module(module, mesh, ExpertParallel())


def check_expert_parallel(mesh: DeviceMesh) -> None:
    for level in LEVELS:
        single = mixture(level)
        model = parallel(copy.deepcopy(single), mesh)
        assert model.gate_up_proj.to_local().shape[0] == EXPERTS // mesh.size()
        for seed in range(2):  # another routing, added to the gradients
            expected = trained(single, *routed(seed))
            actual = trained(model, *(own_part(mesh, t, 0) for t in routed(seed)))
            torch.testing.assert_close(actual, tuple(own_part(mesh, t, 0) for t in expected))
        assert_same_gradients(model, single)


def check_expert_parallel_without_tokens(mesh: DeviceMesh) -> None:
    """In one process, in all, or for the experts of one."""
    first = mesh.get_local_rank() == 0
    x, ids, weights = routed()
    for count, only in ((TOKENS if first else 0, None), (0, None), (TOKENS, 1)):
        single, model = mixture(), parallel(mixture(), mesh)
        chosen = ids if only is None else torch.full_like(ids, only)
        expected = trained(single, x[:count], chosen[:count], weights[:count])
        actual = trained(model, x[:count], chosen[:count], weights[:count])
        torch.testing.assert_close(actual, expected)


def check_expert_parallel_and_fsdp(mesh: DeviceMesh) -> None:
    """On a mesh of two dimensions, of which one has one process."""
    for shape in ((1, 2), (2, 1)):
        both = init_device_mesh("cpu", shape, mesh_dim_names=("fsdp", "experts"))
        single = mixture()
        model = parallel(copy.deepcopy(single), both["experts"])
        fully_shard(model, mesh=both["fsdp"])
        expected = trained(single, *routed())
        actual = trained(model, *(own_part(mesh, t, 0) for t in routed()))
        torch.testing.assert_close(actual[0], own_part(mesh, expected[0], 0))
        for parameter in single.parameters():
            parameter.grad /= shape[0]  # as fully_shard does
        assert_same_gradients(model, single)


def check_expert_parallel_checkpoints(mesh: DeviceMesh) -> None:
    """A full state dict is that of one process, in any of its forms, and back."""
    single, model = mixture(), parallel(mixture(), mesh)
    full = StateDictOptions(full_state_dict=True)
    state = get_model_state_dict(model, options=full)
    torch.testing.assert_close(state, dict(single.state_dict()))
    for form in ("packed", "transposed", "separate"):
        other = mixture()
        for parameter in other.parameters():
            parameter.data.zero_()
        parallel(other, mesh)
        set_model_state_dict(other, single.export_state_dict(form), options=full)
        assert all(isinstance(p, DTensor) for p in other.parameters())
        for name, parameter in other.named_parameters():
            torch.testing.assert_close(whole(parameter), getattr(single, name))


def check_expert_parallel_refusals(mesh: DeviceMesh) -> None:
    with pytest.raises(ValueError, match="num_experts: expected a multiple of 2 processes, got 3"):
        parallel(GatedExperts(3, D_MODEL, D_FF), mesh)
    with pytest.raises(NotImplementedError, match="expected a GatedExperts, got Linear"):
        parallel(nn.Linear(2, 2), mesh)
