"""torch.distributed.tensor takes a second to load: that is left to those who use it."""

import sys

import pytest
import torch
from subprocess_runner import run_alone

import fused_acts

CALLS = {
    "swiglu": lambda x: fused_acts.swiglu(x, x),
    "gelu": lambda x: fused_acts.gelu(x),
    "gelu, bias": lambda x: fused_acts.gelu(x, x[0]),
    "maxout": lambda x: fused_acts.maxout(x, 2),
    "softmax_glu": lambda x: fused_acts.softmax_glu(x, x),
}


def first_dtensor(folder, name):
    assert "torch.distributed.tensor" not in sys.modules
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    x = torch.randn(3, 4)
    part = distribute_tensor(x, mesh, [Shard(0)])
    assert "fused_acts.distributed" not in sys.modules
    assert torch.equal(CALLS[name](part).full_tensor(), CALLS[name](x))
    torch.distributed.destroy_process_group()


# a process each; the others under `slow`
FIRST = [n if n == "swiglu" else pytest.param(n, marks=pytest.mark.slow) for n in CALLS]


@pytest.mark.parametrize("name", FIRST)
def test_sharding_rules_are_registered_by_the_first_dtensor(name, tmp_path):
    run_alone(first_dtensor, str(tmp_path), name)
