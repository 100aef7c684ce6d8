"""Checks of quantised results of DTensors; run by test_distributed.py."""

import torch
from cases import random
from distributed_sharding import split
from quantized_cases import LAYOUTS, PLAIN, Way, check
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

import fused_acts

SHAPE = (4, 6, 160)


def operands():
    return [random(*SHAPE, dtype=torch.float32, seed=seed) for seed in (1, 2)]


def whole(result):
    """As bytes where gloo moves none of their type."""

    def one(tensor):
        if not isinstance(tensor, DTensor):
            return tensor
        local, places = tensor.to_local(), (tensor.device_mesh, tensor.placements)
        if local.element_size() > 1:
            return tensor.full_tensor()
        shape = {"shape": tensor.shape, "stride": tensor.stride()}
        moved = DTensor.from_local(local.view(torch.uint8), *places, **shape)
        return moved.full_tensor().view(tensor.dtype)

    return [one(tensor) for tensor in result]


def check_rows(mesh: DeviceMesh) -> None:
    """Split by rows they stay so, and their scales with them: nothing moves."""
    gate, up = operands()
    weight = random(*SHAPE[:-1], dtype=torch.float32, seed=3)
    for way in PLAIN:
        right = fused_acts.gated_quantized(gate, up, weight=weight, **way.options)
        for place in (Replicate(), Shard(0), Shard(1)):
            parts = [split(tensor, mesh, place) for tensor in (gate, up, weight)]
            with CommDebugMode() as communication:
                ours = fused_acts.gated_quantized(*parts[:2], weight=parts[2], **way.options)
            assert communication.get_total_counts() == 0
            assert ours.values.placements == (place,)
            if way.format != "fp8_tensor":
                assert ours.scales.placements == (place,)
            check(whole(ours), right)


def check_layouts(mesh: DeviceMesh) -> None:
    """Of all rows together: whole, wherever gate and up come from. So are groups of columns."""
    gate, up = operands()
    for way in LAYOUTS:
        right = fused_acts.gated_quantized(gate, up, **way.options)
        for place in (Shard(0), Shard(2)):
            ours = fused_acts.gated_quantized(
                *(split(tensor, mesh, place) for tensor in (gate, up)), **way.options
            )
            check(whole(ours), right)
            assert way.scale_layout == "row" or ours.values.placements == (Replicate(),)


def check_out(mesh: DeviceMesh) -> None:
    """Written where it lies."""
    gate, up = operands()
    for way in PLAIN:
        right = fused_acts.gated_quantized(gate, up, **way.options)
        parts = [split(tensor, mesh, Shard(0)) for tensor in (gate, up)]
        other = fused_acts.gated_quantized(*parts[::-1], **way.options)
        with CommDebugMode() as communication:
            ours = fused_acts.gated_quantized(*parts, out=other, **way.options)
        assert communication.get_total_counts() == 0 and ours.values is other.values
        check(whole(ours), right)


def check_blocks(mesh: DeviceMesh) -> None:
    """What saved activations become, and back."""
    x, _ = operands()
    operators = torch.ops.fused_acts
    right = operators.quantize_blocks(x)
    for place in (Replicate(), Shard(0), Shard(1)):
        part = split(x, mesh, place)
        with CommDebugMode() as communication:
            ours = operators.quantize_blocks(part)
            back = operators.dequantize_blocks(*ours, 1)
        assert communication.get_total_counts() == 0 and back.placements == (place,)
        check(whole(ours), right)
        assert torch.equal(back.full_tensor(), operators.dequantize_blocks(*right, 1))


def check_experts(mesh: DeviceMesh) -> None:
    """Counts go with their experts."""
    gate, up = operands()
    counts = torch.tensor([6, 0, 3, 5], dtype=torch.int32)
    way = Way("fp8_block128", "row", "pow2")
    given = {"padding": "zero", **way.options}
    right = fused_acts.gated_quantized(gate, up, counts=counts, **given)
    parts = [split(tensor, mesh, Shard(0)) for tensor in (gate, up, counts)]
    with CommDebugMode() as communication:
        ours = fused_acts.gated_quantized(*parts[:2], counts=parts[2], **given)
    assert communication.get_total_counts() == 0
    check(whole(ours), right)
