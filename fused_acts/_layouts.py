"""Where a packed tensor holds gate and up."""

from typing import Literal, get_args

import torch
from torch import Tensor

Layout = Literal["gate_up", "up_gate", "interleaved"]
# The operators take a layout as an index into these.
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
LAYOUT_INDEX: dict[str, int] = {name: index for index, name in enumerate(LAYOUTS)}


def unpack(x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """Views (gate, up), [..., cols] each, of a packed x: [..., 2 * cols]."""
    if layout == "interleaved":
        gate, up = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
        return gate, up
    first, second = torch.unflatten(x, -1, (2, -1)).unbind(-2)
    return (first, second) if layout == "gate_up" else (second, first)


def unpack_bias(bias: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """`unpack` of a packed bias [2 * cols]."""
    try:
        if layout == "gate_up" and type(bias) in (Tensor, torch.nn.Parameter):
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


def pack(gate: Tensor, up: Tensor, layout: str) -> Tensor:
    """The packed x: [..., 2 * cols] of gate and up, [..., cols] each."""
    if layout == "interleaved":
        return torch.stack((gate, up), -1).flatten(-2)
    return torch.cat((gate, up) if layout == "gate_up" else (up, gate), -1)
