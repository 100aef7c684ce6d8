"""torch.distributed.tensor takes a second to load: that is left to those who use it."""

import sys

import torch
from alone import run_alone

import fused_acts


def first_dtensor(folder):
    assert "torch.distributed.tensor" not in sys.modules
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    gate = torch.randn(3, 4)
    parts = [distribute_tensor(gate, mesh, [Shard(0)]) for _ in range(2)]
    assert "fused_acts.distributed" not in sys.modules
    out = fused_acts.swiglu(*parts)
    assert torch.equal(out.full_tensor(), fused_acts.swiglu(gate, gate))
    torch.distributed.destroy_process_group()


def test_sharding_rules_are_registered_by_the_first_dtensor(tmp_path):
    run_alone(first_dtensor, str(tmp_path))
