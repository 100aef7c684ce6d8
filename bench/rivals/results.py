"""What `python -m bench field` found, as tables for the terminal and for docs/field.md."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rich.table import Table
from rich.text import Text

from .. import report
from ..timing import Label, Timings
from .check import NEAR, Ulps
from .table import ADAPTERS, EAGER
from .units import Case

Worst = Mapping[tuple[str, str, str], Ulps]  # by competitor, unit and dtype


@dataclass(frozen=True)
class Result:
    """A competitor's time, the median over rounds."""

    unit: str
    form: str
    dtype: str
    tokens: int
    cols: int
    direction: str
    competitor: str
    seconds: float
    ratio_to_eager: float
    ratio_low: float  # the quartiles over the rounds
    ratio_high: float
    worst_ulps: float | None  # of the value, over all gates or a dense sample
    worst_gate: float | None  # where
    near_ulps: float | None  # the worst over gates of at most check.NEAR
    rounds: int


def make_results(case: Case, timings: Timings, worst: Worst) -> Iterator[Result]:
    base: Label = (EAGER, "fresh")
    for label, samples in timings.samples.items():
        ratios = timings.ratios(label, base)
        low, high = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else 2 * ratios
        ulps = None if case.backward else worst.get((label[0], case.unit, case.dtype))
        yield Result(
            unit=case.unit,
            form=case.form,
            dtype=case.dtype,
            tokens=case.tokens,
            cols=case.cols,
            direction=case.direction,
            competitor=label[0],
            seconds=timings.seconds(label),
            ratio_to_eager=timings.ratio(label, base),
            ratio_low=low,
            ratio_high=high,
            worst_ulps=ulps.worst if ulps else None,
            worst_gate=ulps.gate if ulps else None,
            near_ulps=ulps.near if ulps else None,
            rounds=len(samples),
        )


def competitors_of(results: Sequence[Result]) -> list[str]:
    """In the order of the table of competitors."""
    there = {each.competitor for each in results}
    return [name for name in ADAPTERS if name in there]


def by_table(results: Sequence[Result]) -> list[tuple[tuple[str, str], list[Result]]]:
    """((direction, dtype), results)."""
    return report.grouped(results, lambda each: (each.direction, each.dtype))


def short(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:.2f}" if number < 100 else f"{number:.0e}".replace("e+0", "e")


def screen_tables(results: Sequence[Result]) -> Iterator[Table]:
    """A line a unit and number of tokens; below them the unit's accuracy."""
    for (direction, dtype), group in by_table(results):
        names = competitors_of(group)
        table = report.plain_table(
            f"Time relative to eager, {direction}, {dtype}, {group[0].cols} columns",
            ["", "tokens", *(name.replace(", ", ",\n") for name in names)],
        )
        for unit, lines in report.grouped(group, lambda each: each.unit):
            for tokens, line in report.grouped(lines, lambda each: each.tokens, ordered=True):
                found = {each.competitor: each for each in line}
                table.add_row(unit, str(tokens), *(screen_cell(found.get(n)) for n in names))
            if any(each.worst_ulps is not None for each in lines):
                last = {each.competitor: each for each in lines}
                near = (last[name].near_ulps if name in last else None for name in names)
                worst = (last[name].worst_ulps if name in last else None for name in names)
                table.add_row("", "ulps", *map(short, near))
                table.add_row("", "in tails", *map(short, worst))
            table.add_section()
        yield table


def screen_cell(result: Result | None) -> str | Text:
    if result is None:
        return "-"
    if result.competitor == EAGER:
        return report.format_time(result.seconds)
    return report.styled_ratio(result.ratio_to_eager)


def markdown(results: Sequence[Result]) -> Iterator[str]:
    """Lines: tables of times with a line a unit and all numbers of tokens in a cell, then ulps."""
    for (direction, dtype), group in by_table(results):
        tokens = sorted({each.tokens for each in group})
        counts = ", ".join(map(str, tokens))
        yield f"**{direction}, {dtype}**: {counts} tokens, {group[0].cols} columns"
        yield ""
        yield from grid(group, partial(time_cell, tokens))
    for (_, dtype), group in by_table(results):
        counted = [each for each in group if each.worst_ulps is not None]
        if counted:
            which = "a sample of all numbers" if dtype == "fp32" else "all numbers"
            yield f"**worst error in ulps, {dtype}**: for gates of at most {NEAR:g}, over {which}"
            yield ""
            yield from grid(counted, ulps_cell)


def grid(group: Sequence[Result], cell: Callable[[Sequence[Result]], str]) -> Iterator[str]:
    names = competitors_of(group)
    yield f"| | {' | '.join(names)} |"
    yield "|---" * (1 + len(names)) + "|"
    for unit, lines in report.grouped(group, lambda each: each.unit):
        found = dict(report.grouped(lines, lambda each: each.competitor))
        cells = (cell(found[name]) if name in found else "-" for name in names)
        yield f"| {unit} | {' | '.join(cells)} |"
    yield ""


def ulps_cell(lines: Sequence[Result]) -> str:
    return f"{short(lines[0].near_ulps)}, {short(lines[0].worst_ulps)}"


def time_cell(tokens: Sequence[int], lines: Sequence[Result]) -> str:
    found = {each.tokens: each for each in lines}
    return ", ".join(time_text(found.get(count)) for count in tokens)


def time_text(result: Result | None) -> str:
    if result is None:
        return "-"
    if result.competitor == EAGER:
        return report.format_time(result.seconds)
    return f"{result.ratio_to_eager:.2f}"


def write_block(text: str, lines: Sequence[str]) -> str:
    """The page with what stands between its markers replaced."""
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    before, _, rest = text.partition(begin)
    return "\n".join([before + begin, "", *lines, end]) + rest.partition(end)[2]
