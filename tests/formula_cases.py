"""Formulas as the tables and the gallery state them, computed from their text."""

import math
from typing import Any

import mpmath

COMMON = {
    "max": max,
    "min": min,
    "abs": abs,
    "clamp": lambda x, low, high: min(max(x, low), high),
}
FLOATS = {**vars(math), **COMMON, "sigmoid": lambda x: 1 / (1 + math.exp(-x))}
# As many digits as mpmath is set to.
DIGITS = {
    **{name: getattr(mpmath, name) for name in ("exp", "log", "sqrt", "erf", "tanh", "pi")},
    **COMMON,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
}


def evaluate(text: str, functions: dict[str, Any] = FLOATS, **names: Any) -> Any:
    """A formula as written: `value; 0 where condition` or `value, s = ...`, with ^ for powers."""
    text, _, zero = text.replace("^", "**").partition("; 0 where ")
    if zero and eval(zero, functions | names):
        return 0.0
    text, _, definition = text.partition(", s = ") if ", s = " in text else text.partition(", t = ")
    if definition:
        value = eval(definition, functions | names)
        names |= {"s": value, "t": value}
    return eval(text, functions | names)
