"""Checks of calls on DTensors other than forward and backward; run by test_distributed.py."""

import pytest
import torch
from cases import same_bits
from distributed_sharding import COLUMNS, SHAPE, leaves, operands, rows, split
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

import fused_acts

PLACES = (Replicate(), Shard(0), Shard(COLUMNS))


def check_out(mesh: DeviceMesh) -> None:
    """Written where it lies, whatever the inputs are split by."""
    gate, up, _ = operands()
    for options in ({}, {"beta": 0.5}):
        expected = fused_acts.swiglu(gate, up, **options)
        for place in PLACES:
            for out_place in PLACES:
                out = split(torch.zeros_like(gate), mesh, out_place)
                inputs = [split(tensor, mesh, place) for tensor in (gate, up)]
                with CommDebugMode() as communication:
                    assert fused_acts.swiglu(*inputs, out=out, **options) is out
                assert communication.get_total_counts() == 0 or place != out_place
                assert out.placements == (out_place,)
                assert same_bits(out.full_tensor(), expected)


def check_out_that_cannot_be_written(mesh: DeviceMesh) -> None:
    gate, up, _ = operands()
    message = "out: expected to be placed as the other arguments"
    out = split(torch.zeros_like(gate), mesh, Shard(COLUMNS))
    with pytest.raises(RuntimeError, match=message):  # what it would be computed from is torn
        fused_acts.swiglu(split(torch.cat((gate, up), -1), mesh, Shard(COLUMNS)), out=out)
    grid = init_device_mesh("cpu", (1, 2))
    inputs = [split(tensor, grid, Shard(0), Shard(COLUMNS)) for tensor in (gate, up)]
    with pytest.raises(RuntimeError, match=message):
        fused_acts.swiglu(*inputs, out=split(torch.zeros_like(gate), grid, Shard(0), Shard(1)))
    out = split(torch.zeros_like(gate), grid, Shard(0), Shard(COLUMNS))
    assert same_bits(fused_acts.swiglu(*inputs, out=out).full_tensor(), fused_acts.swiglu(gate, up))


def check_save(mesh: DeviceMesh) -> None:
    """Rows are quantised where they are; columns, whose groups may be torn, together."""
    gate, up, grad_out = (tensor.float() for tensor in operands())
    whole = leaves((gate, up))
    fused_acts.swiglu(*whole, save="fp8_block128").backward(grad_out)
    for place in PLACES:
        parts = [split(tensor, mesh, place).requires_grad_() for tensor in (gate, up)]
        grad_part = split(grad_out, mesh, place)
        with CommDebugMode() as communication:
            fused_acts.swiglu(*parts, save="fp8_block128").backward(grad_part)
        assert communication.get_total_counts() == 0 or place == Shard(COLUMNS)
        for part, single in zip(parts, whole, strict=True):
            assert same_bits(part.grad.full_tensor(), single.grad)


def check_inplace_backward(mesh: DeviceMesh) -> None:
    """The gradients take the place of gate and up, wherever grad_out comes from."""
    gate, up, grad_out = operands()
    whole = leaves((gate, up))
    fused_acts.swiglu(*whole).backward(grad_out)
    for place in PLACES:
        for grad_place in PLACES:
            parts = [split(tensor, mesh, place).requires_grad_() for tensor in (gate, up)]
            computed = [part * 1 for part in parts]
            out = fused_acts.swiglu(*computed, inplace_backward=True)
            out.backward(split(grad_out, mesh, grad_place))
            for part, mine, single in zip(parts, computed, whole, strict=True):
                assert part.grad.placements == (place,)
                assert same_bits(part.grad.full_tensor(), single.grad)
                assert same_bits(mine.detach().full_tensor(), single.grad)


def check_product(mesh: DeviceMesh) -> None:
    """The operator that writes over all that it reads."""
    gate, up, grad_out = operands()
    (bias,) = rows("gate_bias").values()
    swiglu = fused_acts.variants().index("swiglu")
    for place, row_place in ((Shard(0), Replicate()), (Shard(COLUMNS), Shard(0))):
        whole = [tensor.clone() for tensor in (grad_out, gate, up)]
        parts = [split(tensor, mesh, place) for tensor in whole]
        bias_part = split(bias, mesh, row_place)
        rest = (None, None, 1.0, 1.0, float("inf"), 1.0, swiglu, 0, 7, True)
        with CommDebugMode() as communication:
            by_bias, *_ = torch.ops.fused_acts.glu_backward_inplace(*parts, bias_part, *rest)
        assert communication.get_total_counts() == 0
        expected, *_ = torch.ops.fused_acts.glu_backward_inplace(*whole, bias, *rest)
        torch.testing.assert_close(by_bias.full_tensor(), expected)
        for part, single in zip(parts, whole, strict=True):
            assert same_bits(part.full_tensor(), single)


def second_gradients(inputs, options):
    out = fused_acts.swiglu(*inputs, **options)
    given = [*inputs, *options.values()]
    grads = torch.autograd.grad((out * out).sum(), given, create_graph=True)
    return torch.autograd.grad(sum((grad * grad).sum() for grad in grads), given)


def check_double_backward(mesh: DeviceMesh) -> None:
    gate, up, _ = operands()
    for place in (Shard(0), Shard(1), Shard(COLUMNS)):
        double_backward(
            mesh, (gate, up), place, Shard(0) if place == Shard(COLUMNS) else Replicate()
        )
    for place in (Shard(0), Shard(1)):
        double_backward(mesh, (torch.cat((gate, up), -1),), place, Replicate())


def double_backward(mesh, tensors, place, row_place):
    for names in ((), ("gate_bias", "up_bias"), ("beta",)):
        given = rows(*names)
        inputs = [split(tensor, mesh, place).requires_grad_() for tensor in tensors]
        parts = {n: split(row, mesh, row_place).requires_grad_() for n, row in given.items()}
        whole = dict(zip(given, leaves(given.values()), strict=True))
        single = second_gradients(leaves(tensors), whole)
        for part, expected in zip(second_gradients(inputs, parts), single, strict=True):
            torch.testing.assert_close(part.full_tensor(), expected)


def check_rounding_eager(mesh: DeviceMesh) -> None:
    gate, up, grad_out = (tensor.bfloat16() for tensor in operands())
    whole = leaves((gate, up))
    expected = fused_acts.swiglu(*whole, rounding="eager")
    expected.backward(grad_out)
    for place in PLACES:
        parts = [split(tensor, mesh, place).requires_grad_() for tensor in (gate, up)]
        with CommDebugMode() as communication:
            out = fused_acts.swiglu(*parts, rounding="eager")
        assert communication.get_total_counts() == 0
        out.backward(split(grad_out, mesh, place))
        assert same_bits(out.full_tensor(), expected)
        for part, single in zip(parts, whole, strict=True):
            assert same_bits(part.grad.full_tensor(), single.grad)


def check_without_grad(mesh: DeviceMesh) -> None:
    gate, up, _ = operands()
    parts = [split(tensor, mesh, Shard(0)) for tensor in (gate, up)]
    with torch.no_grad():
        assert same_bits(fused_acts.swiglu(*parts).full_tensor(), fused_acts.swiglu(gate, up))
    with torch.inference_mode():
        assert same_bits(fused_acts.swiglu(*parts).full_tensor(), fused_acts.swiglu(gate, up))


def check_compiled(mesh: DeviceMesh) -> None:
    gate, up, grad_out = operands()
    whole = leaves((gate, up))
    expected = fused_acts.swiglu(*whole)
    expected.backward(grad_out)
    compiled = torch.compile(
        lambda *inputs: fused_acts.swiglu(*inputs), backend="aot_eager", fullgraph=True
    )
    parts = [split(tensor, mesh, Shard(COLUMNS)).requires_grad_() for tensor in (gate, up)]
    out = compiled(*parts)
    out.backward(split(grad_out, mesh, Shard(COLUMNS)))
    assert same_bits(out.full_tensor(), expected)
    for part, single in zip(parts, whole, strict=True):
        assert same_bits(part.grad.full_tensor(), single.grad)


def check_errors(mesh: DeviceMesh) -> None:
    gate, up, _ = operands()
    with pytest.raises(ValueError, match=r"^up: expected shape \[4, 6, 8\], got \[4, 6, 7\]"):
        fused_acts.swiglu(split(gate, mesh), split(up[..., :7], mesh))
    with pytest.raises(RuntimeError, match="mixed torch.Tensor and DTensor"):
        fused_acts.swiglu(split(gate, mesh), up)
    assert gate.shape == SHAPE
