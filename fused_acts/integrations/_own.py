"""Which unit of one's own an activation is that of, by trial."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from fused_acts._call import ROW_INDEX
from fused_acts._formulas import identity
from fused_acts._rows import DEFINITIONS
from fused_acts.functional import FUNCTIONS
from fused_acts.tables import ACTIVATIONS, VARIANTS


def gated_units() -> list[str]:
    """Those f(gate) * up."""
    own = [name for name in VARIANTS if ROW_INDEX[name] in DEFINITIONS]
    return [name for name in own if VARIANTS[name].g is identity]


def unit_of(activation: Callable[[Tensor], Any]) -> str | None:
    """The gated unit or, where there is none, the activation alone."""
    alone = [name for name in ACTIVATIONS if ROW_INDEX[name] in DEFINITIONS]
    units = [*gated_units(), *alone]
    if not units or _has_tensors(activation):
        return None
    with _disable_current_modes(), torch.enable_grad():
        return next((unit for unit in units if _is_of(unit, activation)), None)


def _has_tensors(activation: Callable[[Tensor], Any]) -> bool:
    """What is learned or loaded later is no number of a unit."""
    kept: Iterable[Any] = getattr(activation, "__dict__", {}).values()
    if isinstance(activation, nn.Module):
        kept = chain(kept, activation.parameters(), activation.buffers())
    return any(isinstance(value, Tensor) for value in kept)


def _is_of(unit: str, activation: Callable[[Tensor], Any]) -> bool:
    x = torch.linspace(-6, 6, 97, dtype=torch.float64, device="cpu")
    factors = (x, torch.ones_like(x)) if unit in VARIANTS else (x,)
    try:
        # Models write some with shortened constants, as in _trial.py.
        out = activation(x)
        is_learned = out.requires_grad
        return not is_learned and torch.allclose(out, FUNCTIONS[unit](*factors), 1e-9, 1e-9)
    except Exception:  # of what is no function of a tensor alone
        return False
