"""Experts on several processes, and their tokens to and fro."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._functional_collectives import (
    all_to_all_single,
    all_to_all_single_autograd,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle

from fused_acts._autograd.routing import Routing
from fused_acts.nn import GatedExperts


class ExpertParallel(ParallelStyle):
    """Splits a fused_acts.nn.GatedExperts by experts, for torch's parallelize_module.

    Each process of the mesh has as many of the experts, in order, and tokens of its own. It sends
    each token to the processes of its experts and adds up what comes back, by torch's all-to-all.
    The output and the gradients by the input are those of all experts in one process.

    The parameters become DTensors, Shard(0). Their gradients are sums over the tokens of all
    processes: where the loss is a mean over those of one, divide them by the number of processes,
    as DDP and FSDP do for the others. fully_shard over another dimension of the mesh goes on top.

    Each call sends the number of rows for each expert first, one small all-to-all, and the host
    waits for it, because the sizes of torch's all-to-all are its own; then the rows, and back.

    Raises NotImplementedError for another module, ValueError where the number of processes does not
    divide that of the experts.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if type(module) is not GatedExperts:
            raise NotImplementedError(
                f"ExpertParallel: expected a GatedExperts, got {type(module).__name__}"
            )
        if module.num_experts % device_mesh.size():
            raise ValueError(
                f"num_experts: expected a multiple of {device_mesh.size()} processes, got "
                f"{module.num_experts}"
            )
        distribute_module(module, device_mesh, partial(_partition, self.src_data_rank))
        module.register_load_state_dict_pre_hook(_distribute)  # type: ignore[no-untyped-call]
        module.__class__ = _ParallelExperts
        module._mesh = device_mesh  # type: ignore[assignment]
        return module


def _partition(source: int | None, name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    for key, parameter in module.named_parameters(recurse=False):
        own = distribute_tensor(parameter, mesh, [Shard(0)], src_data_rank=source)
        module.register_parameter(key, nn.Parameter(own, parameter.requires_grad))


def _distribute(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Takes the parameters of all experts, as the names of others may have been."""
    for name, own in module.named_parameters(recurse=False):
        value = state.get(prefix + name)
        if isinstance(own, DTensor) and value is not None and not isinstance(value, DTensor):
            state[prefix + name] = distribute_tensor(
                value, own.device_mesh, own.placements, src_data_rank=None
            )


class _ParallelExperts(GatedExperts):
    """A GatedExperts whose parameters are those of some experts: see ExpertParallel."""

    _mesh: DeviceMesh

    def _tensors(self) -> Any:
        return (t.to_local() if isinstance(t, DTensor) else t for t in super()._tensors())

    def forward(self, x: Tensor, expert_ids: Tensor, expert_weights: Tensor) -> Tensor:
        tokens, ids, weights = self._flat(x, expert_ids, expert_weights)
        group, processes = self._mesh.get_group(), self._mesh.size()
        routing = Routing.of(ids, self.num_experts)
        counts = routing.offs.diff(prepend=routing.offs.new_zeros(1))
        theirs = all_to_all_single(counts, None, None, group)
        # For each process: the rows that go there, and that come from there.
        to, by = torch.stack((counts, theirs)).view(2, processes, -1).sum(2).tolist()

        def exchanged(rows: Tensor) -> Tensor:
            return all_to_all_single_autograd(rows[: sum(to)].contiguous(), by, to, group)

        local = torch.arange(self.num_experts // processes, device=x.device).repeat(processes)
        local = local.repeat_interleave(theirs, output_size=sum(by)).unsqueeze(1)
        rows, row_weights = routing.rows_of_slots(tokens), routing.sorted(weights)
        y = super().forward(exchanged(rows), local, exchanged(row_weights).unsqueeze(1))
        y = all_to_all_single_autograd(y, to, by, group)
        slots = y.new_zeros(rows.shape).index_copy(0, routing.order[: sum(to)], y)
        y = slots.view(*routing.shape, self.d_model).sum(1)
        return y if x.dim() == 2 else y.view(x.shape)
