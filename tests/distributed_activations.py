"""Checks of the activations, maxout and softmax_glu on DTensors; run by test_distributed.py."""

import torch
from cases import random, same_bits
from distributed_sharding import COLUMNS, ROWS, SHAPE, leaves, operands, rows, split
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

import fused_acts

BY_ROWS = [Shard(dim) for dim in ROWS]
# Options of prelu, with their placements where x is split by columns: rows are split with it.
OPTIONS = [(), ("bias",), ("slope",), ("bias", "slope")]


def run(function, inputs, grad_out):
    """The output, and the gradients by all inputs."""
    inputs = leaves(inputs)
    out = function(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad_out)]


def compare(mesh, function, inputs, places, grad_out, out_place, moves=False):
    """The same values as of whole tensors, elements to the last bit, and no data moved."""
    parts = [split(tensor, mesh, place) for tensor, place in zip(inputs, places, strict=True)]
    grad_part = split(grad_out, mesh, out_place)
    with CommDebugMode() as communication:
        distributed = run(function, parts, grad_part)
    assert (communication.get_total_counts() > 0) == moves
    for part, whole in zip(distributed, run(function, inputs, grad_out), strict=True):
        full = part.full_tensor()
        assert same_bits(full, whole) if whole.dim() > 1 else torch.allclose(full, whole)
    return [part.placements for part in distributed]


def prelu(*names):
    return lambda x, *given: fused_acts.prelu(x, **dict(zip(names, given, strict=True)))


def check_alone(mesh: DeviceMesh) -> None:
    """Split by rows, or by columns with the bias and the parameter."""
    x, _, grad_out = operands()
    for place in (*BY_ROWS, Shard(COLUMNS), Replicate()):
        for names in OPTIONS:
            row = Shard(0) if place == Shard(COLUMNS) else Replicate()
            inputs = [x, *rows(*names).values()]
            places = [place, *[row] * len(names)]
            found = compare(mesh, prelu(*names), inputs, places, grad_out, place)
            assert found[:2] == [(place,)] * 2
            for (of_row,) in found[2:]:
                assert of_row.is_partial("sum") if place in BY_ROWS else of_row == row


def check_alone_with_one_parameter(mesh: DeviceMesh) -> None:
    """Whose gradient is a sum over columns too."""
    x, _, grad_out = operands()
    slope = torch.tensor(0.5, dtype=torch.float64)
    for place in (Shard(0), Shard(COLUMNS)):
        parts = split(x, mesh, place), split(slope, mesh), split(grad_out, mesh, place)
        for one, whole in zip(
            run(prelu("slope"), parts[:2], parts[2]),
            run(prelu("slope"), (x, slope), grad_out),
            strict=True,
        ):
            torch.testing.assert_close(one.full_tensor(), whole)


def check_two_parameters(mesh: DeviceMesh) -> None:
    """Vectors, one above the other for the kernel, or single values."""
    x, _, grad_out = operands()
    vector = torch.linspace(0.5, 1.5, x.shape[-1], dtype=torch.float64)

    def xielu(x, first, second):
        return fused_acts.xielu(x, alpha_p=first, alpha_n=second)

    for given in ([vector, vector.flip(0)], [vector[:1], vector[1:2]]):
        for place in (*BY_ROWS, Shard(COLUMNS)):
            by_columns = place == Shard(COLUMNS) and given[0].numel() > 1
            row = Shard(0) if by_columns else Replicate()
            tensors, places = [x, *given], [place, row, row]
            parts = [split(t, mesh, p) for t, p in zip(tensors, places, strict=True)]
            for one, whole in zip(
                run(xielu, parts, split(grad_out, mesh, place)),
                run(xielu, tensors, grad_out),
                strict=True,
            ):
                torch.testing.assert_close(one.full_tensor(), whole)


def check_every_activation(mesh: DeviceMesh) -> None:
    x, _, grad_out = operands()
    for name in fused_acts.activations():
        for place in (Shard(0), Shard(COLUMNS)):
            compare(mesh, getattr(fused_acts, name), [x], [place], grad_out, place)


def check_out(mesh: DeviceMesh) -> None:
    x, _, _ = operands()
    for place in (Shard(0), Shard(COLUMNS), Replicate()):
        out = split(torch.zeros_like(x), mesh, place)
        assert fused_acts.gelu(split(x, mesh, place), out=out) is out
        assert same_bits(out.full_tensor(), fused_acts.gelu(x))


def check_double_backward(mesh: DeviceMesh) -> None:
    x, up, _ = operands()

    def second(function, inputs):
        inputs = [tensor.requires_grad_() for tensor in inputs]
        grads = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(grad.square().sum() for grad in grads), inputs)

    for function, inputs in (
        (fused_acts.mish, (x,)),
        (lambda x: fused_acts.maxout(x, 2), (x,)),
        (fused_acts.softmax_glu, (x, up)),
    ):
        for place in (Shard(0), Replicate()):
            parts = second(function, [split(tensor, mesh, place) for tensor in inputs])
            for one, whole in zip(parts, second(function, leaves(inputs)), strict=True):
                torch.testing.assert_close(one.full_tensor(), whole)


def check_maxout(mesh: DeviceMesh) -> None:
    """Split by any dimension, the one that it reduces only between groups."""
    x = random(*SHAPE, dtype=torch.float64, seed=1)

    def halved(dim):
        return lambda x: fused_acts.maxout(x, 2, dim)

    for dim in range(x.dim()):
        grad_out = fused_acts.maxout(x, 2, dim).cos()
        for place in (*BY_ROWS, Shard(COLUMNS), Replicate()):
            torn = place == Shard(dim) and x.shape[dim] // 2 % 2 == 1
            to = Replicate() if torn else place
            found = compare(mesh, halved(dim), [x], [place], grad_out, to, moves=torn)
            assert found == [(to,), (to,)] or torn


def check_softmax_glu(mesh: DeviceMesh) -> None:
    """Split by rows; by columns, data is moved first."""
    gate, up, grad_out = operands()
    for place in (*BY_ROWS, Replicate(), Shard(COLUMNS)):
        torn = place == Shard(COLUMNS)
        places = [place, place]
        found = compare(mesh, fused_acts.softmax_glu, [gate, up], places, grad_out, place, torn)
        assert torn or found == [(place,)] * 3
    parts = [split(tensor, mesh, Shard(0)) for tensor in (gate, up)]
    for i in range(2):  # one of them alone needs a gradient
        mine = [part.detach().requires_grad_(i == j) for j, part in enumerate(parts)]
        (grad,) = torch.autograd.grad(
            fused_acts.softmax_glu(*mine), mine[i], split(grad_out, mesh, Shard(0))
        )
        whole = run(fused_acts.softmax_glu, (gate, up), grad_out)
        assert same_bits(grad.full_tensor(), whole[1 + i])


def check_two_mesh_dimensions(mesh: DeviceMesh) -> None:
    """Rows over one and columns over the other, groups of them for maxout."""
    x, _, grad_out = operands()
    narrow = grad_out[..., : SHAPE[-1] // 2].contiguous()
    for shape in ((1, 2), (2, 1)):
        grid = init_device_mesh("cpu", shape)
        places = Shard(0), Shard(COLUMNS)
        for function, seed in (
            (fused_acts.gelu, grad_out),
            (lambda x: fused_acts.maxout(x, 2), narrow),
        ):
            parts = split(x, grid, *places), split(seed, grid, *places)
            with CommDebugMode() as communication:
                distributed = run(function, parts[:1], parts[1])
            assert communication.get_total_counts() == 0
            for part, whole in zip(distributed, run(function, [x], seed), strict=True):
                assert same_bits(part.full_tensor(), whole)
