"""The options of a call: from keyword arguments to what the operators take."""

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_acts.tables import ACTIVATIONS, ALIASES, VARIANTS, Activation, Variant

# The operators take variants, the activations behind them, and layouts as indices into these.
NAMES = tuple(VARIANTS)
LAYOUTS = ("gate_up", "up_gate", "interleaved")
ALONE = 3  # the layout of an activation's input

_INDEX = {name: index for index, name in enumerate(NAMES)}
LAYOUT_INDEX = {name: index for index, name in enumerate(LAYOUTS)}
_ACTIVATION_INDEX = {name: len(NAMES) + index for index, name in enumerate(ACTIVATIONS)}
_COMMON = ("gate_bias", "up_bias", "bias", "rounding", "inplace_backward")


class Call(NamedTuple):
    """What a call is asked for beside its tensors."""

    variant: int
    layout: int
    scalar: float = 1.0  # the parameter of f, where it is no tensor
    limit: float = math.inf
    plain: bool = True  # nothing but variant and layout, and no tensors beside gate and up
    eager: bool = False
    inplace: bool = False


class Parsed(NamedTuple):
    gate_bias: Tensor | None
    up_bias: Tensor | None
    parameter: Tensor | None
    call: Call


def unknown(argument: str, name: Any, names: Iterable[str]) -> ValueError:
    return ValueError(f"{argument}: expected one of {', '.join(names)}, got {name!r}")


def variant_index(variant: str) -> int:
    index = _INDEX.get(variant)
    if index is None:
        raise unknown("variant", variant, NAMES)
    return index


def activation_name(name: str) -> str:
    """The name in the table, for that itself or an alias."""
    known = isinstance(name, str) and (name in ACTIVATIONS or name in ALIASES)
    if not known:
        raise unknown("name", name, (*ACTIVATIONS, *ALIASES))
    return ALIASES.get(name, name)


def activation_index(name: str) -> int:
    return _ACTIVATION_INDEX[activation_name(name)]


def layout_index(layout: str) -> int:
    index = LAYOUT_INDEX.get(layout)
    if index is None:
        raise unknown("layout", layout, LAYOUTS)
    return index


def halves(x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """Views (gate, up) of a packed x: [..., 2 * cols], each [..., cols]."""
    if layout == "gate_up":
        gate, up = torch.unflatten(x, -1, (2, -1)).unbind(-2)
    elif layout == "up_gate":
        up, gate = torch.unflatten(x, -1, (2, -1)).unbind(-2)
    elif layout == "interleaved":
        gate, up = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
    else:
        raise unknown("layout", layout, LAYOUTS)
    return gate, up


def pack(gate: Tensor, up: Tensor, layout: str) -> Tensor:
    """The packed x: [..., 2 * cols] of gate and up, [..., cols] each."""
    if layout == "interleaved":
        return torch.stack((gate, up), -1).flatten(-2)
    return torch.cat((gate, up) if layout == "gate_up" else (up, gate), -1)


def names_for(variant: str) -> tuple[str, ...]:
    """The options that a variant has."""
    row = VARIANTS[variant]
    own = (row.parameter,) if row.parameter else ()
    return own + (("limit",) if row.limits else ()) + _COMMON


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    return float(value)


def _biases(options: Mapping[str, Any], layout: str) -> tuple[Tensor | None, Tensor | None]:
    gate_bias, up_bias, bias = (options.get(n) for n in ("gate_bias", "up_bias", "bias"))
    for name, value in (("gate_bias", gate_bias), ("up_bias", up_bias), ("bias", bias)):
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if bias is None:
        return gate_bias, up_bias
    if gate_bias is not None or up_bias is not None:
        raise ValueError("bias: expected either bias or gate_bias and up_bias, got both")
    if bias.dim() != 1 or bias.shape[0] % 2:
        raise ValueError(
            f"bias: expected the biases of gate and up in one, [2 * cols], got {tuple(bias.shape)}"
        )
    return halves(bias, layout)


def _parameter(
    row: Variant | Activation, options: Mapping[str, Any]
) -> tuple[Tensor | None, float]:
    given = None if row.parameter is None else options.get(row.parameter)
    if row.parameter is None or given is None:
        return None, row.default
    if isinstance(given, Tensor):
        return given, row.default
    return None, _number(row.parameter, given)


def parse(variant: str, layout: str, options: Mapping[str, Any]) -> Parsed:
    """Checks the options of `fused_acts.gated` and fills in the variant's defaults.

    Raises TypeError for an option that the variant does not have, ValueError for a bad value.
    """
    row = VARIANTS[variant]
    for name in options:
        if name not in names_for(variant):
            raise TypeError(
                f"{name}: {variant} has no such option; it has {', '.join(names_for(variant))}"
            )
    gate_bias, up_bias = _biases(options, layout)

    parameter, scalar = _parameter(row, options)
    limit = row.limit
    if "limit" in options:
        limit = None if options["limit"] is None else _number("limit", options["limit"])
    if limit is not None and not limit >= 0:
        raise ValueError(f"limit: expected a number that is not negative, or None, got {limit}")

    rounding = options.get("rounding", "single")
    if rounding not in ("single", "eager"):
        raise unknown("rounding", rounding, ("single", "eager"))
    eager, inplace = rounding == "eager", bool(options.get("inplace_backward", False))
    plain = (
        gate_bias is None
        and up_bias is None
        and parameter is None
        and limit is None
        and scalar == row.default == 1.0  # what the operators without options have
        and not eager
    )
    limit = math.inf if limit is None else limit
    call = Call(_INDEX[variant], layout_index(layout), scalar, limit, plain, eager, inplace)
    return Parsed(gate_bias, up_bias, parameter, call)


def parse_activation(name: str, bias: Any, options: Mapping[str, Any]) -> Parsed:
    """Checks the arguments of `fused_acts.activation`, as `parse` does."""
    index, row = activation_index(name), ACTIVATIONS[activation_name(name)]
    for option in options:
        if option != row.parameter:
            has = f"; it has {row.parameter}" if row.parameter else ""
            raise TypeError(f"{option}: {name} has no such option{has}")
    if bias is not None and not isinstance(bias, Tensor):
        raise TypeError(f"bias: expected a torch.Tensor, got {type(bias).__name__}")
    parameter, scalar = _parameter(row, options)
    plain = bias is None and parameter is None and scalar == row.default == 1.0
    return Parsed(bias, None, parameter, Call(index, ALONE, scalar, math.inf, plain))


# The calls that are given no options, by variant and layout; an activation has one layout only.
DEFAULTS = tuple(tuple(parse(name, layout, {}).call for layout in LAYOUTS) for name in NAMES)
DEFAULTS += tuple((parse_activation(name, None, {}).call,) * (ALONE + 1) for name in ACTIVATIONS)
