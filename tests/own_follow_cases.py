"""What tests of units of one's own run in processes of their own."""

import io
import pickle

import torch
from define_cases import define
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

import fused_acts


def run_pickled(path: str) -> None:
    """What was pickled where its units are defined, here where they are not yet."""
    with open(path, "rb") as file:
        thing, inputs, expected, is_alone = pickle.load(file)
    found = thing(*inputs)
    assert torch.equal(found, expected)
    again = pickle.loads(pickle.dumps(thing))
    assert torch.equal(again(*inputs), expected)
    if is_alone:  # by a lambda, which is no part of a pickle
        x = inputs[0].double().requires_grad_()
        (slope,) = torch.autograd.grad(thing(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        try:
            torch.autograd.grad(second.sum(), x)
        except RuntimeError as error:
            assert "without its reference" in str(error)
        else:
            raise AssertionError("a third derivative of a unit without a reference")


def run_split(folder: str) -> None:
    """On DTensors by rows and by columns, in one process."""
    define("sinlu_glu"), define("logish")
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    whole = torch.randn(2, 4, 8, dtype=torch.float64).unbind(0)
    a = torch.rand(8, dtype=torch.float64)
    for dim in (0, 1):
        gate, up = (distribute_tensor(t, mesh, [Shard(dim)]).requires_grad_() for t in whole)
        split = distribute_tensor(a, mesh, [Shard(0)] if dim else None).requires_grad_()
        out = fused_acts.gated(gate, up, variant="sinlu_glu", a=split)
        assert out.placements == (Shard(dim),)
        plain = [t.clone().requires_grad_() for t in (*whole, a)]
        expected = fused_acts.gated(*plain[:2], variant="sinlu_glu", a=plain[2])
        assert torch.equal(out.full_tensor(), expected)
        out.sum().backward(), expected.sum().backward()
        for part, tensor in zip((gate, up, split), plain, strict=True):
            torch.testing.assert_close(part.grad.full_tensor(), tensor.grad)
        alone = fused_acts.activation(gate, "logish")
        assert torch.equal(alone.full_tensor(), fused_acts.activation(whole[0], "logish"))
    torch.distributed.destroy_process_group()


def bytes_of(thing: object) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file)
    return file.getvalue()
