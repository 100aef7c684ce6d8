"""What a call is asked for beside tensors: from names and numbers to what the operators take."""

import difflib
import functools
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fused_acts._layouts import LAYOUT_INDEX, LAYOUTS
from fused_acts.tables import ACTIVATIONS, ALIASES, ROWS, VARIANTS, Activation, value_of

_is_compiling = torch.compiler.is_compiling
_is_dynamo = torch.compiler.is_dynamo_compiling

# The operators take units and activations, which have no up, as the keys of ROWS.
VARIANT_INDEX = {name: index for index, name in enumerate(VARIANTS)}
ACTIVATION_INDEX = {name: len(VARIANTS) + index for index, name in enumerate(ACTIVATIONS)}
ACTIVATION_INDEX |= {alias: ACTIVATION_INDEX[name] for alias, name in ALIASES.items()}
ROW_INDEX = VARIANT_INDEX | ACTIVATION_INDEX
NAMES = dict(enumerate((*VARIANTS, *ACTIVATIONS)))
# Units of one's own that there was no compiler for, by index: composed of torch operations.
COMPOSED: set[int] = set()

Rounding = Literal["single", "eager"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
Padding = Literal["skip", "zero"]
PADDINGS: tuple[Padding, ...] = get_args(Padding)
Save = Literal["fp8_block128"]
SAVES: tuple[Save, ...] = get_args(Save)

# What says which rows are whose, as the operators take it: the kind of the tensor `experts`, and as
# another bit whether padding is to be written 0.
ROW_KINDS = {"offs": 1, "counts": 2, "row_expert": 3}
ZERO_PADDING = 4


def is_unary(variant: int) -> bool:
    return isinstance(ROWS[variant], Activation)


class Call(NamedTuple):
    """One way to call the operators; the first six are their last arguments, in this order."""

    # Numbers; in code that is compiled all are tensors where one of them may change.
    scalar: Any  # the parameters, where those are no operand
    second: Any
    limit: Any
    weight: Any
    variant: int
    layout: int
    rows: int  # of ROW_KINDS
    has_options: bool  # whether there is more to it than variant and layout
    eager: bool
    inplace: bool
    save: bool  # whether gate and up are kept in eight bits


NUMBERS = 4  # of a Call


def unknown(argument: str, name: Any, names: Iterable[str]) -> ValueError:
    names = tuple(names)
    close = difflib.get_close_matches(name, names, 1) if isinstance(name, str) else ()
    meant = f"; did you mean {close[0]}?" if close else ""
    return ValueError(f"{argument}: expected one of {', '.join(names)}, got {name!r}{meant}")


def index_of(argument: str, name: Any, indices: dict[str, int]) -> int:
    """indices[name], or an error that names the argument and what it may be."""
    index = indices.get(name) if isinstance(name, str) else None
    if index is None:
        raise unknown(argument, name, indices)
    return index


def options_of(variant: int) -> dict[str, Any]:
    """The options that a row of the tables has, and their defaults."""
    row = ROWS[variant]
    options: dict[str, Any] = {**row.parameters}
    rows = {"weight": 1.0} | dict.fromkeys(ROW_KINDS) | {"padding": "skip"}
    save = {"save": None}
    if isinstance(row, Activation):
        return options | {"bias": None} | rows | save
    if row.limits:
        options["limit"] = row.limit
    options |= dict.fromkeys(("gate_bias", "up_bias", "bias"))
    rest = {"block": 1, "rounding": "single", "inplace_backward": False}
    return options | rows | rest | save


def _defaults(variant: int) -> tuple[list[float], bool, float | None]:
    """Of the two parameters, of which there need not be any, whether they are 1, and the limit."""
    row = ROWS[variant]
    values = [*row.parameters.values(), 1.0, 1.0][:2]
    return values, values == [1.0, 1.0], getattr(row, "limit", None)


# Dynamo makes symbols of the numbers that it finds in a table, but not of what this returns.
_defaults._dynamo_marked_constant = True  # type: ignore[attr-defined]


def number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        got = "a Tensor" if value is Tensor else type(value).__name__
        raise TypeError(f"{name}: expected a number, got {got}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number that a float holds") from None


def _layout_index(layout: str, block: Any) -> int:
    """As the operators take it: interleaved in blocks of so many columns is one more for each."""
    index = index_of("layout", layout, LAYOUT_INDEX)
    if type(block) is not int:
        raise TypeError(f"block: expected an integer, got {type(block).__name__}")
    if block < 1:
        raise ValueError(f"block: expected at least 1, got {block}")
    if block > 1 and layout != "interleaved":
        raise ValueError(f"block: expected 1 with the layout {layout}, got {block}")
    return index + block - 1


def _row_kind(given: Mapping[str, Any], padding: Any) -> int:
    """Of a call, as the operators take it."""
    names = [name for name in ROW_KINDS if given.get(name) is not None]
    for name in names:
        if given[name] is not Tensor:
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(given[name]).__name__}")
    if len(names) > 1:
        raise ValueError(f"{names[1]}: expected none beside {names[0]}")
    if padding not in PADDINGS:
        raise unknown("padding", padding, PADDINGS)
    if not names:
        return 0
    return ROW_KINDS[names[0]] + (ZERO_PADDING if padding == "zero" else 0)


def parse(variant: int, layout: str, *options: Any) -> Call:
    """The call for options, a name and a value in turn, where the type Tensor stands for a tensor.

    Raises TypeError for an option that the variant does not have or of another type, ValueError for
    a bad value.
    """
    row = ROWS[variant]
    given = dict(zip(options[::2], options[1::2], strict=True))
    chosen = options_of(variant)
    for name, value in given.items():
        if name not in chosen:
            raise TypeError(
                f"{name}: {NAMES[variant]} has no such option; it has {', '.join(chosen)}"
            )
        if name.endswith("bias") and value is not None and value is not Tensor:
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if given.get("bias") and (given.get("gate_bias") or given.get("up_bias")):
        raise ValueError("bias: expected either bias or gate_bias and up_bias, got both")
    has_tensors = any(value is Tensor for value in given.values())
    chosen |= given

    defaults, are_one, own_limit = _defaults(variant)
    scalars: list[Any] = [*defaults]
    for index, name in enumerate(row.parameters):
        value = value_of(row, name, given[name]) if name in given else None
        if value is not None and value is not Tensor:
            scalars[index] = number(name, value)
    has_limit = "limit" in chosen and "limit" not in given
    limit = own_limit if has_limit else given.get("limit")
    if limit is not None:
        limit = number("limit", limit)
        if not limit >= 0:
            raise ValueError(f"limit: expected a number that is not negative, or None, got {limit}")
        # The files of AOTInductor have no infinity. A number that Dynamo traces is only asked for
        # its sign.
        if not _is_compiling() and limit == math.inf:
            limit = None
    rounding = chosen.get("rounding", "single")
    if rounding not in ROUNDINGS:
        raise unknown("rounding", rounding, ROUNDINGS)
    eager = rounding == "eager"
    save, inplace = chosen["save"], bool(chosen.get("inplace_backward", False))
    if save is not None and save not in SAVES:
        raise unknown("save", save, SAVES)
    if save and inplace:
        raise ValueError("inplace_backward: expected False with save, which keeps no gate and up")
    weight: Any = chosen["weight"]
    weight = 1.0 if weight is Tensor else number("weight", weight)
    # 1.0 is what the operator without options has for numbers. Dynamo would compile for it.
    numbers = *scalars, weight
    given_numbers = any(name in given for name in (*row.parameters, "weight"))
    is_other = not are_one or (given_numbers and _is_compiling())
    is_other = is_other or any(n != 1.0 for n in numbers)
    has_options = has_tensors or eager or limit is not None or is_other
    return Call(
        scalars[0],
        scalars[1],
        limit,
        weight,
        variant,
        _layout_index(layout, chosen.get("block", 1)),
        _row_kind(given, chosen["padding"]),
        has_options,
        eager,
        inplace,
        save is not None,
    )


def parse_options(variant: int, layout: str, options: Mapping[str, Any]) -> Call:
    pairs = ((n, Tensor if isinstance(v, Tensor) else v) for n, v in options.items())
    return parse(variant, layout, *(part for pair in pairs for part in pair))


# typed: True is no number, though it equals 1.
_parse_once = functools.lru_cache(maxsize=4096, typed=True)(parse)
_PLAIN = frozenset({bool, int, str, type(None)})  # beside float, of which 0.0 and -0.0 are one key


def resolve(variant: int, layout: str, options: Mapping[str, Any]) -> Call:
    """`parse` of keyword arguments, remembered: most come again and again."""
    if _is_dynamo():  # it does not trace through a cache
        return parse_options(variant, layout, options)
    key: list[Any] = []
    for name, value in options.items():
        if type(value) is not float:
            if isinstance(value, Tensor):
                value = Tensor
            elif type(value) not in _PLAIN:
                return parse_options(variant, layout, options)
        elif not value:
            return parse_options(variant, layout, options)
        key += name, value
    return _parse_once(variant, layout, *key)


def defaults_of(variant: int) -> tuple[Call, ...]:
    """The calls that are given no options, by layout."""
    return tuple(parse(variant, layout) for layout in LAYOUTS)


DEFAULTS = {variant: defaults_of(variant) for variant in ROWS}
