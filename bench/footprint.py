"""How much memory a function takes."""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import profile

# Else the profiler says on every start that it has started; read at the first.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def saved_bytes(forward: Callable[[], Tensor], left_out: Sequence[Tensor]) -> int:
    """What autograd keeps for backward: every storage once."""
    others = {tensor.untyped_storage().data_ptr() for tensor in left_out}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in others:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = forward()
    del y  # only now: while what it keeps lives, no two addresses are the same
    return sum(sizes.values())


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most that torch's allocator holds during the call, above what it holds before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(profile_memory=True) as profiled:
        call()
    assert profiled.kineto_results is not None
    changes = [each for each in profiled.kineto_results.events() if each.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda change: change.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak
