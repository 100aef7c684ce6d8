"""Checks of PackedColwiseParallel and of what its outputs are; run by test_distributed.py."""

import copy
import shutil
import tempfile

import pytest
import torch
from distributed_calls import double_backward
from distributed_models import (
    D_FF,
    D_MODEL,
    OwnFFN,
    batch,
    ffn,
    own_part,
    same_everywhere,
    sequence_parallel,
    tensor_parallel,
    trained,
)
from distributed_sharding import COLUMNS, by_columns, operands, torn, two_mesh_dimensions
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

import fused_acts
from fused_acts.distributed import PackedColwiseParallel

HALVES = _StridedShard(COLUMNS, split_factor=2)
FULL = StateDictOptions(full_state_dict=True)


def packed_plan():
    return {"gate_up_proj": PackedColwiseParallel(), "down_proj": RowwiseParallel()}


def check_tensor_parallel(mesh: DeviceMesh) -> None:
    tensor_parallel(mesh, ffn(True), PackedColwiseParallel)
    for layout in ("gate_up", "up_gate"):
        tensor_parallel(mesh, same_everywhere(OwnFFN(layout)), PackedColwiseParallel)


def check_sequence_parallel(mesh: DeviceMesh) -> None:
    sequence_parallel(mesh, ffn(True), PackedColwiseParallel)


def check_columns(mesh: DeviceMesh) -> None:
    """The output of such a projection, as a DTensor."""
    for layout in ("gate_up", "up_gate"):
        by_columns(mesh, layout, HALVES)
    torn(mesh, "interleaved", operands(), HALVES)
    packed = torch.cat(operands()[:2], -1)
    two_mesh_dimensions((packed,), HALVES)
    double_backward(mesh, (packed,), HALVES, Shard(0))


def check_parameters(mesh: DeviceMesh) -> None:
    """Each process holds the same part of gate and up; put together, all is in its usual order."""
    single = ffn(True)
    model = copy.deepcopy(single)
    parallelize_module(model, mesh, packed_plan())
    for key in ("weight", "bias"):
        expected = getattr(single.gate_up_proj, key).detach()
        packed = getattr(model.gate_up_proj, key).detach()
        assert torch.equal(packed.full_tensor(), expected)
        halves = [own_part(mesh, half, 0) for half in expected.chunk(2)]
        assert torch.equal(packed.to_local(), torch.cat(halves))

    optimizers = [torch.optim.AdamW(each.parameters(), lr=0.1) for each in (model, single)]
    for each, optimizer in zip((model, single), optimizers, strict=True):
        trained(each, batch())
        torch.nn.utils.clip_grad_norm_(each.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(get_model_state_dict(model, options=FULL), single.state_dict())
    state = get_optimizer_state_dict(model, optimizers[0], options=FULL)
    expected = get_optimizer_state_dict(single, optimizers[1], options=FULL)
    torch.testing.assert_close(state["state"], expected["state"])

    restored = fused_acts.nn.GatedFFN(D_MODEL, D_FF, bias=True, dtype=torch.float64)
    parallelize_module(restored, mesh, packed_plan())
    set_model_state_dict(restored, single.state_dict(), options=FULL)
    torch.testing.assert_close(restored(batch()), single(batch()))


def check_checkpoint(mesh: DeviceMesh) -> None:
    """Redistributed, as the sharded checkpoints of torch want it."""
    single = ffn(True)
    model = copy.deepcopy(single)
    parallelize_module(model, mesh, packed_plan())
    state = {n: t.redistribute(placements=[Shard(0)]) for n, t in model.state_dict().items()}
    folder = [tempfile.mkdtemp() if mesh.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(folder)
    checkpoint.save(state, checkpoint_id=folder[0])
    whole = {name: torch.zeros_like(tensor) for name, tensor in single.state_dict().items()}
    checkpoint.load(whole, checkpoint_id=folder[0])
    torch.testing.assert_close(whole, dict(single.state_dict()))
    torch.distributed.barrier()
    if mesh.get_rank() == 0:
        shutil.rmtree(folder[0])

    restored = fused_acts.nn.GatedFFN(D_MODEL, D_FF, bias=True, dtype=torch.float64)
    parallelize_module(restored, mesh, packed_plan())
    restored.load_state_dict(state)
    torch.testing.assert_close(restored(batch()), single(batch()))
    separate = ffn(False)
    columns, down = ColwiseParallel(), RowwiseParallel()
    plan = {"gate_proj": columns, "up_proj": columns, "down_proj": down}
    parallelize_module(separate, mesh, plan)
    separate.load_state_dict(model.state_dict())
    torch.testing.assert_close(separate(batch()), single(batch()))


def check_with_fsdp(mesh: DeviceMesh) -> None:
    """Over the same dimension DTensor cannot put the rows in order, and that is said."""
    grid = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    single = ffn(True, bias=False)
    for placement in (None, Shard(1)):
        model = copy.deepcopy(single)
        parallelize_module(model, grid["tensor"], packed_plan())
        fully_shard(model, mesh=grid["data"], shard_placement_fn=lambda p, chosen=placement: chosen)
        torch.testing.assert_close(trained(model, batch()), single(batch()))
        if placement is None:
            for call in (model.state_dict, lambda m=model: m.load_state_dict(single.state_dict())):
                with pytest.raises(RuntimeError, match="weight: expected one mesh dimension"):
                    call()
        else:
            state = get_model_state_dict(model, options=FULL)
            torch.testing.assert_close(state, single.state_dict())


def check_errors(mesh: DeviceMesh) -> None:
    with pytest.raises(ValueError, match="out_features: expected a multiple of 4, .* got 6"):
        parallelize_module(nn.Linear(4, 6), mesh, PackedColwiseParallel())
    with pytest.raises(NotImplementedError, match="expected an nn.Linear, got Embedding"):
        parallelize_module(nn.Embedding(4, 8), mesh, PackedColwiseParallel())
