"""An activation or a gated unit with its parameters, as the library computes it in float64."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fused_acts import functional
from fused_acts.tables import ACTIVATIONS, VARIANTS, Activation, Variant, of_up


@dataclass(frozen=True, eq=False)
class Entry:
    name: str
    row: Activation | Variant
    given: Mapping[str, Any] = field(default_factory=dict)  # options of the call

    @property
    def is_gated(self) -> bool:
        return isinstance(self.row, Variant)

    @property
    def options(self) -> dict[str, float]:
        """The parameters and the limit in use."""
        found: dict[str, float] = {**self.row.parameters}
        if isinstance(self.row, Variant) and self.row.limit is not None:
            found["limit"] = self.row.limit
        return found | dict(self.given)

    @property
    def limit(self) -> float:
        return self.options.get("limit", math.inf)

    def out(self, gate: Tensor, up: Tensor) -> Tensor:
        """f(gate) * g(up), of a gated unit."""
        return functional.gated(gate, up, variant=self.name, **self.given)

    def value(self, x: Tensor) -> Tensor:
        """f(x); of a gated unit, the unit over an up that is held, divided by g of it."""
        if not isinstance(self.row, Variant):
            return functional.activation(x, self.name, **self.given)
        up = torch.full_like(x, min(1.0, self.limit))
        values = [self.options[name] for name in self.row.parameters]
        return self.out(x, up) / self.row.g(up, *of_up(self.row, values))

    def of_up(self, x: Tensor) -> Tensor:
        """g(x) of a gated unit, in the same way."""
        gate = torch.full_like(x, min(1.0, self.limit))
        return self.out(gate, x) / self.value(gate)

    def derivative(self, x: Tensor) -> Tensor:
        """f'(x), from the library's backward pass."""
        return derivative(self.value, x)


def derivative(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of an elementwise function, by its backward pass."""
    x = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(function(x).sum(), x)
    return grad


def takes(row: Activation | Variant) -> set[str]:
    """The options that change the picture of a row."""
    return {*row.parameters} | ({"limit"} if isinstance(row, Variant) and row.limits else set())


def entries(names: list[str] | None = None, **options: float) -> list[Entry]:
    """Entries for the names, or for all; each takes those of the options that it has.

    Raises ValueError for an unknown name, an option that none of them has, or a limit that is not
    positive.
    """
    rows: dict[str, Activation | Variant] = {**ACTIVATIONS, **VARIANTS}
    chosen = names or list(rows)
    for name in chosen:
        if name not in rows:
            raise ValueError(f"name: expected one of {', '.join(rows)}, got {name!r}")
    for option in options:
        if not any(option in takes(rows[name]) for name in chosen):
            raise ValueError(f"{option}: none of {', '.join(chosen)} has such an option")
    if not options.get("limit", 1.0) > 0:
        raise ValueError(f"limit: expected a positive number, got {options['limit']}")
    return [
        Entry(name, rows[name], {n: v for n, v in options.items() if n in takes(rows[name])})
        for name in chosen
    ]
