"""Ranges, extremes and flat sides of a function of one number, found from its values alone."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fused_acts.gallery.entry import Entry

Function = Callable[[Tensor], Tensor]

# Dense around 0, out to a million: what is not reached there is a limit. (No row grows as slowly
# as a logarithm.)
_HALF = 1e-3 * torch.linspace(0.0, 21.4, 100_001, dtype=torch.float64).sinh()
GRID = torch.cat((-_HALF[1:].flip(0), _HALF))
LAST = len(GRID) - 1
SIDES = {"left": 0, "right": LAST}
ROUNDING = 2.0**-50  # values this close are the same
DISTINCT = 1e-12  # values this far apart are not
SATURATED = 1e-5  # a derivative that is a limit of 0, at the end of the grid


class Extreme(NamedTuple):
    """The largest or smallest value of a function."""

    value: float  # or infinity
    where: str
    attained: bool  # or a limit only
    at: float = math.nan  # where it is a single point


class Flat(NamedTuple):
    """A side on which a function keeps or approaches a value."""

    edge: float
    kept: bool  # from the edge on, to the last bit of real arithmetic; else approached


def flat(function: Function, values: Tensor, level: float, side: str) -> Flat | None:
    """Whether the function has that value out to the end of the grid. values: function(GRID)."""
    near = same(values, level)
    outwards = 1 if side == "right" else -1
    if not near[SIDES[side]]:
        return None
    if near.all():
        return Flat(-outwards * math.inf, True)
    other = (~near).nonzero().flatten()
    outside = int(other[-1] if side == "right" else other[0])
    inside = edge(function, level, outside + outwards, outside)
    if abs(SIDES[side] - outside) < 3:  # still on its way
        return Flat(inside, False)
    # What decays is still within rounding a little before it; a corner or a jump is not.
    before = inside - outwards * (0.05 * abs(inside) + 1e-6)
    return Flat(inside, abs(at(function, before) - level) > DISTINCT * max(1.0, abs(level)))


def same(values: Tensor, level: float) -> Tensor:
    return (values - level).abs() <= ROUNDING * max(1.0, abs(level))


def edge(function: Function, level: float, inside: int, outside: int) -> float:
    """Where the function ceases to have that value, between two neighbours in the grid."""
    x = [float(GRID[inside]), float(GRID[outside])]
    for _ in range(60):
        middle = sum(x) / 2
        value = function(torch.tensor([middle], dtype=torch.float64))
        x[0 if same(value, level) else 1] = middle
    return x[0]


def at(function: Function, x: float) -> float:
    return float(function(torch.tensor([x], dtype=torch.float64)))


def grows(function: Function, side: str) -> bool:
    end = float(GRID[SIDES[side]])
    return at(function, end) > max(1.0, 1.5 * at(function, end / 2))


def supremum(function: Function) -> Extreme:
    """The largest value, and where it is or is approached."""
    if ends := [side for side in SIDES if grows(function, side)]:
        return Extreme(math.inf, approached(ends), False)
    values = function(GRID)
    best = int(values.argmax())
    level = float(values[best])
    sides = {side: flat(function, values, level, side) for side in SIDES}
    kept = {side: found.edge for side, found in sides.items() if found and found.kept}
    if kept and math.isinf(next(iter(kept.values()))):
        return Extreme(level, "everywhere", True)
    if kept:
        where = " and ".join(f"for x {beyond(side, x)}" for side, x in kept.items())
        return Extreme(level, where, True)
    if ends := [side for side, found in sides.items() if found]:
        return Extreme(level, approached(ends), False)
    other = (~same(values, level)).nonzero().flatten()
    low, high = int(other[other < best][-1]), int(other[other > best][0])
    if high - low > 3:  # a smooth top is narrower than the grid
        ends = [number(edge(function, level, i, o)) for i, o in ((low + 1, low), (high - 1, high))]
        return Extreme(level, f"for {ends[0]} < x < {ends[1]}", True)
    x = refined(function, float(GRID[best - 1]), float(GRID[best + 1]))
    value, there = at(function, x), at(function, float(number(x)))
    if value - there > 1e-3 * abs(value):  # it jumps there, to another value
        return Extreme(value, f"as x -> {number(x)}", False)
    return Extreme(value, f"at x = {number(x)}", True, x)


def infimum(function: Function) -> Extreme:
    """The smallest value, and where it is or is approached."""
    found = supremum(lambda x: -function(x))
    return found._replace(value=-found.value)


def refined(function: Function, low: float, high: float) -> float:
    """The place of the maximum between."""
    for _ in range(6):
        x = torch.linspace(low, high, 101, dtype=torch.float64)
        best = min(max(int(function(x).argmax()), 1), len(x) - 2)
        low, high = float(x[best - 1]), float(x[best + 1])
    return (low + high) / 2


def approached(sides: list[str]) -> str:
    names = {"left": "-inf", "right": "inf"}
    return "as x -> " + " and ".join(names[side] for side in sides)


def beyond(side: str, x: float) -> str:
    return f"{'<' if side == 'left' else '>'} {number(x)}"


def number(value: float) -> str:
    """With four decimals at most, or four digits if it is small."""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if 1e-6 < abs(value) < 1e-3:
        return f"{value:.4g}"
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


class Interval(NamedTuple):
    low: Extreme
    high: Extreme

    def __str__(self) -> str:
        left, right = "[" if self.low.attained else "(", "]" if self.high.attained else ")"
        return f"{left}{number(self.low.value)}, {number(self.high.value)}{right}"


def interval(function: Function) -> Interval:
    return Interval(infimum(function), supremum(function))


def product(one: Interval, other: Interval) -> Interval:
    """The range of a product of two functions of different numbers."""
    ends = []
    for a in one:
        for b in other:
            zero = any(e.value == 0 and e.attained for e in (a, b))
            value = 0.0 if 0.0 in (a.value, b.value) else a.value * b.value
            ends.append(Extreme(value, "", zero or (a.attained and b.attained)))
    return Interval(
        min(ends, key=lambda e: (e.value, not e.attained)),
        max(ends, key=lambda e: (e.value, e.attained)),
    )


class Figures(NamedTuple):
    range: Interval  # of f
    range_of_unit: Interval | None  # of f(gate) * g(up)
    largest: Extreme  # derivative of f
    smallest: Extreme
    zero_centred: str
    saturates: str
    dead: str


def figures(entry: Entry) -> Figures:
    """The figures of an activation, or of a gated unit and its f.

    Raises ValueError if the parameters make it infinite or NaN somewhere.
    """
    values, slopes = entry.value(GRID), entry.derivative(GRID)
    if not (values.isfinite().all() and slopes.isfinite().all()):
        raise ValueError(f"{entry.name}: expected finite values, got others with {entry.options}")
    of_f = interval(entry.value)
    saturates, dead = [], []
    for side, end in SIDES.items():
        zero = flat(entry.derivative, slopes, 0.0, side)
        if zero and zero.kept:
            dead.append(f"x {beyond(side, zero.edge)}")
        elif zero or abs(float(slopes[end])) < SATURATED:
            saturates.append(f"{side}, at {number(float(values[end]))}")
    odd = torch.allclose(values, -values.flip(0), rtol=DISTINCT, atol=0)
    both_signs = of_f.low.value < 0 < of_f.high.value and at(entry.value, 0.0) == 0
    return Figures(
        of_f,
        product(of_f, interval(entry.of_up)) if entry.is_gated else None,
        supremum(entry.derivative),
        infimum(entry.derivative),
        ("yes, odd" if odd else "yes") if both_signs else "no",
        "; ".join(saturates) or "-",
        "; ".join(dead) or "-",
    )
