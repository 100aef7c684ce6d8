"""Tensor parallelism for projections that make gate and up in one."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Placement,
    Replicate,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import _StridedShard

_HALVES = _StridedShard(0, split_factor=2)


class PackedColwiseParallel(ParallelStyle):
    """ColwiseParallel for an nn.Linear whose output is packed: [..., 2 * d_ff], in two halves.

    Each process gets the same part of both halves of the rows, so that its output is a packed
    [..., 2 * d_ff / processes] in the same order, which `fused_acts.gated` takes as it is. The next
    layer is a RowwiseParallel. For the layouts gate_up and up_gate; with "interleaved", torch's own
    ColwiseParallel does this.

    The weight and the bias become DTensors whose full_tensor() has the rows in their usual order;
    docs/distributed.md says what that means for checkpoints and under FSDP.

    Args:
        input_layouts: the placement of the input; Replicate() by default, Shard(1) where the
            sequence is split.
        use_local_output: whether the output is a plain tensor, or a DTensor.

    Raises RuntimeError before PyTorch 2.13, NotImplementedError for another module than nn.Linear,
    ValueError where its out_features is not a multiple of twice the number of processes.
    """

    def __init__(
        self, *, input_layouts: Placement | None = None, use_local_output: bool = True
    ) -> None:
        super().__init__()
        self.input_layouts = input_layouts or Replicate()
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if torch.__version__ < "2.13":  # by its parts, as versions go
            raise RuntimeError(
                f"PackedColwiseParallel: expected torch 2.13 or later, got {torch.__version__}, "
                "whose linear layers do not take a weight placed so"
            )
        if not isinstance(module, nn.Linear):
            raise NotImplementedError(
                f"PackedColwiseParallel: expected an nn.Linear, got {type(module).__name__}"
            )
        parts = 2 * device_mesh.size()
        if module.out_features % parts:
            raise ValueError(
                f"out_features: expected a multiple of {parts}, gate and up for each of "
                f"{device_mesh.size()} processes, got {module.out_features}"
            )
        module.register_state_dict_pre_hook(_check_order)
        module.register_load_state_dict_pre_hook(_check_order)
        return distribute_module(
            module,
            device_mesh,
            partial(_partition, self.src_data_rank),
            partial(_prepare_input, self.input_layouts),
            partial(_prepare_output, self.use_local_output),
        )


def _partition(source: int | None, name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    for key, parameter in module.named_parameters(recurse=False):
        halves = distribute_tensor(parameter, mesh, [_HALVES], src_data_rank=source)
        module.register_parameter(key, nn.Parameter(halves, parameter.requires_grad))


def _prepare_input(
    layout: Placement, module: nn.Module, inputs: tuple[Tensor, ...], mesh: DeviceMesh
) -> Any:
    x = inputs[0]
    if not isinstance(x, DTensor):
        x = DTensor.from_local(x, mesh, [layout], run_check=False)
    return x.redistribute(placements=[Replicate()])


def _prepare_output(use_local: bool, module: nn.Module, output: Any, mesh: DeviceMesh) -> Any:
    return output.to_local() if use_local else output


def _check_order(module: nn.Module, *args: Any) -> None:
    """FSDP over the same dimension works, but DTensor then puts the rows together wrongly."""
    for name, parameter in module.named_parameters(recurse=False):
        placements = getattr(parameter, "placements", ())
        if sum(getattr(placement, "dim", None) == 0 for placement in placements) > 1:
            raise RuntimeError(
                f"{name}: expected one mesh dimension at most to split dimension 0 of a packed "
                f"projection, got {placements}; its rows cannot be put in order. Give "
                "fully_shard a shard_placement_fn that returns Shard(1) for it, or use separate "
                "projections of gate and up."
            )
