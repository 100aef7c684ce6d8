"""What a unit of one's own is: its name, expression, parameters and g, checked."""

import hashlib
import json
import keyword
import math
import numbers
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fused_acts._call import unknown
from fused_acts._definitions.expression import check_expression, is_reserved, renamed
from fused_acts._rows import ARGUMENTS
from fused_acts.tables import ACTIVATIONS, ALIASES

# Indices of the table are below, and an int64 ends above.
_FIRST, _END = 2**40, 2**62
MOST_PARAMETERS = 2
_MODULE = torch.nn.Module()  # whose attributes learned parameters become
# Of the library, with its aliases.
LIBRARY = ACTIVATIONS | {alias: ACTIVATIONS[name] for alias, name in ALIASES.items()}


@dataclass(frozen=True)
class Definition:
    """Equal ones are one unit, in every process."""

    name: str
    f: str  # an expression over x and the parameters; or statements that return one
    is_body: bool
    g: str | None  # identity, or an activation of the table; None: an activation alone
    parameters: tuple[tuple[str, float], ...] = ()

    @property
    def digest(self) -> str:
        words = [self.name, self.f, self.is_body, self.g, self.parameters]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()

    @property
    def index(self) -> int:
        """As the operators take it; compiled graphs keep it."""
        return _FIRST + int(self.digest[:16], 16) % (_END - _FIRST)

    @property
    def formula(self) -> str:
        x = "x" if self.g is None else "gate"
        f = f"f({', '.join([x, *dict(self.parameters)])})"
        f = f if self.is_body else renamed(self.f, "x", x)
        if self.g is None:
            return f
        return f"({f}) * {'up' if self.g == 'identity' else f'{self.g}(up)'}"


def make_definition(
    name: str,
    f: str | None,
    f_source: str | None,
    parameters: Mapping[str, float] | None,
    g: str | None,
) -> Definition:
    """The definition of what `define` is called with, or a TypeError or ValueError."""
    check_name(name)
    if g is not None and g != "identity":
        check_g(g)
    if (f is None) == (f_source is None):
        raise TypeError("f: expected either f, an expression, or f_source, the body of a function")
    if f is not None:
        if not isinstance(f, str):
            raise TypeError(f"f: expected an expression as a str, got {type(f).__name__}")
        f = " ".join(f.split())  # one line, for formulas
        if f in LIBRARY:
            if parameters is None and f not in ALIASES:
                parameters = LIBRARY[f].parameters
            f = f"{f}({', '.join(['x', *(parameters or {})])})"
    pairs = check_parameters(parameters)
    if f is not None:
        check_expression(f, [parameter for parameter, _ in pairs])
        return Definition(name, f, False, g, pairs)
    if not isinstance(f_source, str):
        raise TypeError(f"f_source: expected C++ as a str, got {type(f_source).__name__}")
    return Definition(name, textwrap.dedent(f_source).strip(), True, g, pairs)


def check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {type(name).__name__}")
    is_public = name.isascii() and name.isidentifier() and not name.startswith("_")
    if not is_public or keyword.iskeyword(name):
        raise ValueError(f"name: expected an identifier, such as my_glu, got {name!r}")


def check_g(g: Any) -> None:
    names = [n for n, row in LIBRARY.items() if not row.parameters or n in ALIASES]
    if g not in names:
        raise unknown("g", g, ["identity", *names])


def check_parameters(parameters: Any) -> tuple[tuple[str, float], ...]:
    if parameters is None:
        return ()
    if not isinstance(parameters, Mapping):
        got = type(parameters).__name__
        raise TypeError(f"parameters: expected a dict of names and numbers, got {got}")
    if len(parameters) > MOST_PARAMETERS:
        raise ValueError(
            f"parameters: expected at most {MOST_PARAMETERS}, got {', '.join(parameters)}"
        )
    for name, value in parameters.items():
        if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
            raise ValueError(f"parameters: expected names that are identifiers, got {name!r}")
        is_taken = name in ARGUMENTS or hasattr(_MODULE, name)
        if keyword.iskeyword(name) or is_reserved(name) or is_taken:
            raise ValueError(f"parameters: {name} has another meaning; choose another name")
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
        if not math.isfinite(value):
            raise ValueError(f"{name}: expected a finite number, got {value}")
    return tuple((name, float(value)) for name, value in parameters.items())
