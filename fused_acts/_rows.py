"""Rows of one's own: the tables, and all that is made from them, take more at run time."""

import functools
import threading
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from fused_acts._call import (
    ACTIVATION_INDEX,
    COMPOSED,
    DEFAULTS,
    NAMES,
    ROW_INDEX,
    VARIANT_INDEX,
    defaults_of,
)
from fused_acts._names import OwnName
from fused_acts._signatures import TYPES
from fused_acts.functional import FUNCTIONS, function_of
from fused_acts.tables import ACTIVATIONS, ROWS, VARIANTS, Activation, Variant

# By the index of a row of one's own: what its function and the modules that have it keep, so that
# it is pickled and copied with them. Unpickled where there is no such row, it adds it.
DEFINITIONS: dict[int, Any] = {}

# Of the functions and modules that take parameters of rows as options beside these.
ARGUMENTS = {
    *("self", "gate", "up", "x", "name", "variant", "activation", "layout", "dim", "out"),
    *("format", "scale", "scale_layout", "scale_rounding", "amax_floor"),
    *("num_channels", "in_features", "out_features", "d_model", "d_ff", "num_experts", "packed"),
    *("recompute", "device", "dtype", *TYPES),
}
_lock = threading.Lock()


class OwnFunction(functools.partial[Tensor]):
    """The function of a row of one's own, which, unlike one of the library, no import finds."""

    name: OwnName
    definition: Any

    def __reduce__(self) -> Any:
        return _function_of, (self.name, self.definition)

    def __repr__(self) -> str:
        return f"<function {self.name} of fused_acts.define>"


def _function_of(name: str, definition: Any) -> Callable[..., Tensor]:
    """Called with a definition that was unpickled, and so has added the row."""
    return FUNCTIONS[name]


def _own_function(name: str, index: int, definition: Any) -> OwnFunction:
    made = function_of(name, index)
    function: Any = functools.update_wrapper(OwnFunction(made), made)
    function.name, function.definition = name, definition
    return cast(OwnFunction, function)


def add_row(
    name: str, row: Variant | Activation, index: int, definition: Any = None
) -> OwnFunction:
    """Adds a row, which the library has by this index, to the tables; returns its function.

    Raises ValueError for a name or an index that there is.
    """
    with _lock:
        if name in ROW_INDEX or index in ROWS:
            raise ValueError(f"name: expected a new one, got {name!r}")
        ROWS[index], NAMES[index] = row, name
        try:
            DEFAULTS[index] = defaults_of(index)
            FUNCTIONS[name] = function = _own_function(name, index, definition)
        except Exception:
            _forget(name, index)
            raise
        DEFINITIONS[index] = definition
        # Found by name only now that all else is there.
        if isinstance(row, Variant):
            VARIANTS[name], VARIANT_INDEX[name] = row, index
        else:
            ACTIVATIONS[name], ACTIVATION_INDEX[name] = row, index
        ROW_INDEX[name] = index
    return function


def remove_row(name: str) -> None:
    """Takes back add_row; what was made of the row until then fails when it is called."""
    with _lock:
        _forget(name, ROW_INDEX[name])


def _forget(name: str, index: int) -> None:
    by_name: tuple[dict[str, Any], ...] = (ROW_INDEX, VARIANT_INDEX, ACTIVATION_INDEX)
    for table in (*by_name, VARIANTS, ACTIVATIONS, FUNCTIONS):
        table.pop(name, None)
    by_index: tuple[dict[int, Any], ...] = (DEFINITIONS, DEFAULTS, NAMES, ROWS)
    for rows in by_index:
        rows.pop(index, None)
    COMPOSED.discard(index)
