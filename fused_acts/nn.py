"""Modules around the functions."""

import torch
from torch import Tensor

from fused_acts import functional
from fused_acts._ops import LAYOUTS, NAMES


class GatedActivation(torch.nn.Module):
    """f(gate) * g(up) as a module, without parameters; see `fused_acts.gated`.

    Args:
        variant: one of `fused_acts.variants()`.
        layout: where a packed input holds gate and up; for packed inputs only.

    Shapes: (gate, up) with [..., cols] each, or one packed [..., 2 * cols], to [..., cols].

    Raises ValueError for an unknown variant or layout.
    """

    def __init__(self, variant: str = "swiglu", layout: str = "gate_up") -> None:
        super().__init__()
        for argument, name, names in (("variant", variant, NAMES), ("layout", layout, LAYOUTS)):
            if name not in names:
                raise functional.unknown(argument, name, names)
        self.variant = variant
        self.layout = layout

    def forward(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        return functional.gated(gate, up, variant=self.variant, layout=self.layout)

    def extra_repr(self) -> str:
        return f"variant={self.variant!r}, layout={self.layout!r}"
