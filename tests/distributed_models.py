"""Checks of whole blocks under torch's own parallelism; run by test_distributed.py."""

import copy

import torch
from cases import random, same_bits
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import fused_acts

D_MODEL, D_FF = 6, 8
INPUT = (4, 6, D_MODEL)  # [batch, sequence, d_model]
FULL = StateDictOptions(full_state_dict=True)


class OwnFFN(nn.Module):
    """As users write it, around the function."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.gate_up_proj = nn.Linear(D_MODEL, 2 * D_FF)
        self.down_proj = nn.Linear(D_FF, D_MODEL)

    def forward(self, x):
        return self.down_proj(fused_acts.swiglu(self.gate_up_proj(x), layout=self.layout))


def same_everywhere(model):
    """With parameters that are the same in all processes."""
    model = model.double()
    for seed, parameter in enumerate(model.parameters()):
        parameter.data.copy_(random(*parameter.shape, dtype=torch.float64, seed=seed))
    return model


def ffn(packed, bias=True, recompute="product"):
    block = fused_acts.nn.GatedFFN(D_MODEL, D_FF, packed=packed, bias=bias, recompute=recompute)
    return same_everywhere(block)


BLOCKS = [
    (packed, recompute) for packed in (True, False) for recompute in ("none", "product", "all")
]


def trained(model, x):
    """The output, and the gradients of a loss that is a mean over the batch."""
    out = model(x)
    (out * out).sum((1, 2)).mean().backward()
    return out


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def assert_same_gradients(model, single):
    parameters = dict(single.named_parameters())
    for name, parameter in model.named_parameters():
        expected = parameters[name.removeprefix("module.")].grad
        torch.testing.assert_close(whole(parameter.grad), expected, msg=name)


def batch():
    return random(*INPUT, dtype=torch.float64, seed=100)


def own_part(mesh, x, dim):
    return x.chunk(mesh.size(), dim)[mesh.get_local_rank()]


def check_ddp(mesh: DeviceMesh) -> None:
    for packed, recompute in BLOCKS:
        single = ffn(packed, recompute=recompute)
        model = DistributedDataParallel(copy.deepcopy(single))
        expected = trained(single, batch())
        out = trained(model, own_part(mesh, batch(), 0))
        torch.testing.assert_close(out, own_part(mesh, expected, 0))
        assert_same_gradients(model, single)


def check_fsdp(mesh: DeviceMesh) -> None:
    for packed, recompute in BLOCKS:
        single = nn.Sequential(ffn(packed, recompute=recompute), ffn(packed, recompute=recompute))
        model = copy.deepcopy(single)
        for block in model:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        expected = trained(single, batch())
        out = trained(model, own_part(mesh, batch(), 0))
        torch.testing.assert_close(out, own_part(mesh, expected, 0))
        assert_same_gradients(model, single)


def check_fsdp_mixed_precision(mesh: DeviceMesh) -> None:
    single = ffn(True).float()
    model = copy.deepcopy(single)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    out = trained(model, own_part(mesh, batch().float(), 0))
    assert out.dtype == torch.bfloat16

    grads = []
    for part in batch().bfloat16().chunk(mesh.size()):
        rounded = copy.deepcopy(single).bfloat16()
        trained(rounded, part)
        grads.append([parameter.grad.float() for parameter in rounded.parameters()])
    for parameter, *of_parts in zip(model.parameters(), *grads, strict=True):
        assert same_bits(parameter.grad.full_tensor(), sum(of_parts) / mesh.size())


def projections(model, style, **kwargs):
    names = ("gate_up_proj", "gate_proj", "up_proj")
    return {name: style(**kwargs) for name in names if hasattr(model, name)}


def check_tensor_parallel(mesh: DeviceMesh) -> None:
    tensor_parallel(mesh, ffn(False), ColwiseParallel)
    tensor_parallel(mesh, same_everywhere(OwnFFN("interleaved")), ColwiseParallel)


def tensor_parallel(mesh, single, style):
    """One reduction forward, and one for each projection backward: nothing in between."""
    for local in (True, False):
        model = copy.deepcopy(single)
        styles = projections(model, style, use_local_output=local)
        parallelize_module(model, mesh, styles | {"down_proj": RowwiseParallel()})
        x, part = batch().requires_grad_(), batch().requires_grad_()
        expected_model = copy.deepcopy(single)
        expected = trained(expected_model, x)
        with CommDebugMode() as communication:
            out = trained(model, part)
        assert communication.get_total_counts() == 1 + len(styles)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(part.grad, x.grad)
        assert_same_gradients(model, expected_model)


def check_sequence_parallel(mesh: DeviceMesh) -> None:
    sequence_parallel(mesh, ffn(False), ColwiseParallel)


def sequence_parallel(mesh, single, style):
    """The input and the output split by the sequence."""
    model = copy.deepcopy(single)
    styles = projections(model, style, input_layouts=Shard(1))
    down = RowwiseParallel(output_layouts=Shard(1))
    parallelize_module(model, mesh, styles | {"down_proj": down})
    x = batch().requires_grad_()
    part = own_part(mesh, batch(), 1).requires_grad_()
    expected = trained(single, x)
    torch.testing.assert_close(trained(model, part), own_part(mesh, expected, 1))
    torch.testing.assert_close(part.grad, own_part(mesh, x.grad, 1))
    assert_same_gradients(model, single)
