"""Which unit of one's own an activation is that of, by trial."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from fused_acts._call import ROW_INDEX
from fused_acts._formulas import identity
from fused_acts._rows import DEFINITIONS
from fused_acts.functional import FUNCTIONS
from fused_acts.tables import ACTIVATIONS, VARIANTS

# What activations were found to be, and the numbers that they had then.
_found: WeakKeyDictionary[Any, tuple[str, dict[str, Any]]] = WeakKeyDictionary()


def gated_units() -> list[str]:
    """Those f(gate) * up."""
    own = [name for name in VARIANTS if ROW_INDEX[name] in DEFINITIONS]
    return [name for name in own if VARIANTS[name].g is identity]


def unit_of(activation: Callable[[Tensor], Any]) -> str | None:
    """The gated unit or, where there is none, the activation alone."""
    alone = [name for name in ACTIVATIONS if ROW_INDEX[name] in DEFINITIONS]
    units = [*gated_units(), *alone]
    if not units:
        return None
    numbers = {n: v for n, v in vars(activation).items() if isinstance(v, (int, float))}
    unit, had = _found.get(activation, ("", {}))
    if unit in units and had == numbers:
        return unit
    with _disable_current_modes(), torch.no_grad():
        for unit in units:
            if _is_of(unit, activation):
                _found[activation] = unit, numbers
                return unit
    return None


def _is_of(unit: str, activation: Callable[[Tensor], Any]) -> bool:
    x = torch.linspace(-6, 6, 97, dtype=torch.float64, device="cpu")
    factors = (x, torch.ones_like(x)) if unit in VARIANTS else (x,)
    try:
        # Models write some with shortened constants, as in _trial.py.
        return torch.allclose(activation(x), FUNCTIONS[unit](*factors), rtol=1e-9, atol=1e-9)
    except Exception:  # of what is no function of a tensor alone
        return False
