"""Where a packed tensor holds gate and up."""

from typing import Literal, get_args

import torch
from torch import Tensor

Layout = Literal["gate_up", "up_gate", "interleaved"]
# The operators take a layout as an index into these, and interleaved in blocks of several columns
# as one more for each of them.
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
LAYOUT_INDEX: dict[str, int] = {name: index for index, name in enumerate(LAYOUTS)}


_UP_GATE = LAYOUT_INDEX["up_gate"]
_INTERLEAVED = LAYOUT_INDEX["interleaved"]


def block_of(layout: int) -> int:
    """The columns that gate and up take turns in."""
    return max(layout - _INTERLEAVED, 0) + 1


def is_interleaved(layout: int) -> bool:
    return layout >= _INTERLEAVED


def unpack(x: Tensor, layout: int) -> tuple[Tensor, Tensor]:
    """(gate, up), [..., cols] each, of a packed x: [..., 2 * cols]; views if they can be."""
    if layout == _INTERLEAVED:
        gate, up = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
        return gate, up
    if is_interleaved(layout):
        gate, up = torch.unflatten(x, -1, (-1, 2, block_of(layout))).unbind(-2)
        return gate.flatten(-2), up.flatten(-2)
    first, second = torch.unflatten(x, -1, (2, -1)).unbind(-2)
    return (second, first) if layout == _UP_GATE else (first, second)


def unpack_bias(bias: Tensor, layout: int) -> tuple[Tensor, Tensor]:
    """`unpack` of a packed bias [2 * cols]."""
    try:
        if layout == 0 and type(bias) in (Tensor, torch.nn.Parameter):
            gate_bias, up_bias = bias.chunk(2, -1)  # one operation; a DTensor would be gathered
            return gate_bias, up_bias
        return unpack(bias, layout)
    except RuntimeError as error:  # of torch, without the name
        if "storage of size 0" in str(error):
            raise RuntimeError(
                f"bias: expected a tensor with memory, got one of shape {list(bias.shape)} whose "
                "data is not allocated: its storage was freed, as by resize_(0), or never filled"
            ) from None
        raise


def pack(gate: Tensor, up: Tensor, layout: int) -> Tensor:
    """The packed x: [..., 2 * cols] of gate and up, [..., cols] each."""
    if is_interleaved(layout):
        blocks = -1, block_of(layout)
        return torch.stack((gate.unflatten(-1, blocks), up.unflatten(-1, blocks)), -2).flatten(-3)
    return torch.cat((up, gate) if layout == _UP_GATE else (gate, up), -1)
