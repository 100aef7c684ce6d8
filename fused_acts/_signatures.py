"""Signatures and docstrings of the functions that are made from the tables."""

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fused_acts._call import is_unary, options_of
from fused_acts.tables import ROWS, Variant

TYPES: dict[str, Any] = {
    "gate_bias": Tensor | None,
    "up_bias": Tensor | None,
    "bias": Tensor | None,
    "limit": float | None,
    "weight": float | Tensor,
    "offs": Tensor | None,
    "counts": Tensor | None,
    "row_expert": Tensor | None,
    "padding": str,
    "block": int,
    "rounding": str,
    "inplace_backward": bool,
    "save": str | None,
}  # what is not here is a parameter of f or g


def signature(function: Callable[..., Any], variant: int) -> inspect.Signature:
    """That of the function, with the options of the row in the place of **options."""
    own = inspect.signature(function)
    parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    given = {parameter.name for parameter in parameters}
    number: Any = float | Tensor
    if getattr(ROWS[variant], "caps", False):
        number = number | None
    parameters += [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=TYPES.get(name, number),
        )
        for name, default in options_of(variant).items()
        if name not in given
    ]
    return own.replace(parameters=parameters)


# What is said of the rows together and goes without saying for one.
_OF_ALL = (", where the variant has one", ", where it has one", "where the variant has it, ")


def docstring(name: str, variant: int, function: Callable[..., Any], like: str | None) -> str:
    """The formula and the source of a row, and of `like` what is about arguments that it has."""
    row = ROWS[variant]
    _, _, text = (like or "").partition("    Args:\n")
    arguments, _, rest = text.partition("\n    Returns:")
    lines = []
    for paragraph in re.split(r"^(?=        \w)", arguments, flags=re.MULTILINE):
        names, _, about = " ".join(paragraph.split()).partition(": ")
        kept = [n for n in names.split(", ") if n in inspect.signature(function).parameters]
        for phrase in _OF_ALL:
            about = about.replace(phrase, "")
        if kept == ["layout"] and isinstance(row, Variant) and row.layout != "gate_up":
            about += f" By default {row.layout}."
        if kept:
            line = f"{', '.join(kept)}: {about}"
            lines.append(
                textwrap.fill(line, 100, initial_indent=8 * " ", subsequent_indent=12 * " ")
            )
    if is_unary(variant):
        rest = rest.replace(", x is 0-d, or the name is unknown", " or x is 0-d")
    call = f"{name}(x)" if is_unary(variant) else f"{name}(gate, up)"
    return "\n".join(
        (
            f"{call} = {row.formula}\n\n    From {row.source}.\n",
            "    Args:",
            *lines,
            f"\n    Returns:{rest}",
        )
    )
