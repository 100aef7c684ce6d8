"""What stands for a tensor that is kept in eight bits, by torch's own operations, and backward
passes that find it in the place of the tensor."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

SAVE = {"save": "fp8_block128"}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GROUP = 128  # columns


def stands_for(x: Tensor) -> Tensor:
    """e4m3 of x / s, times s: a group's largest magnitude / 448."""
    if not x.numel():
        return x
    groups = []
    for group in x.float().split(GROUP, -1):
        s = group.abs().amax(-1, keepdim=True) / 448
        s = torch.where(s == 0, 1.0, s)
        groups.append((group / s).clamp(-448, 448).to(torch.float8_e4m3fn).float() * s)
    return torch.cat(groups, -1).to(x.dtype)


def packed_stands_for(layout: str, block: int = 1) -> Callable[[Tensor], Tensor]:
    """`stands_for` of gate and of up in one."""

    def function(x: Tensor) -> Tensor:
        if layout != "interleaved":
            return torch.cat([stands_for(half) for half in x.chunk(2, -1)], -1)
        pairs = x.unflatten(-1, (-1, 2, block))
        halves = [stands_for(pairs[..., i, :].flatten(-2)) for i in range(2)]
        return torch.stack([half.unflatten(-1, (-1, block)) for half in halves], -2).flatten(-3)

    return function


class Exchanged(saved_tensors_hooks):
    """Gives backward passes what stands for the tensors of a shape, the first few that are kept."""

    def __init__(
        self, shape: tuple[int, ...], count: int, function: Callable[[Tensor], Tensor] = stands_for
    ):
        self.left = count

        def pack(tensor: Tensor) -> tuple[Tensor, bool]:
            is_one = tensor.shape == shape and self.left > 0
            self.left -= is_one
            return tensor, is_one

        def unpack(kept: tuple[Tensor, bool]) -> Tensor:
            tensor, is_one = kept
            return function(tensor) if is_one else tensor

        super().__init__(pack, unpack)

    def __exit__(self, *_: object) -> None:
        super().__exit__(*_)
        assert self.left == 0


def kept_by(function: Callable[[], Tensor]) -> tuple[Tensor, dict[torch.dtype, int]]:
    """The result, and the bytes that are kept for its backward pass in each dtype of numbers that
    are no integers, each storage once."""
    kept: dict[int, tuple[torch.dtype, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.is_floating_point():
            kept[storage.data_ptr()] = tensor.dtype, storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    sums: dict[torch.dtype, int] = {}
    for dtype, size in kept.values():
        sums[dtype] = sums.get(dtype, 0) + size
    return result, sums
