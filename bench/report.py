"""Results as tables for the terminal, and as JSON and CSV files."""

import csv
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .bandwidth import Bandwidth
from .competitors import OURS
from .machine import busy, describe
from .measure import Failure, Line, Row

Key = TypeVar("Key", bound=Any)
AnyLine = TypeVar("AnyLine")
MIN_WIDTH = 120


def make_console(least: int = MIN_WIDTH) -> Console:
    """At least as wide as the tables: a narrow terminal wraps them, but loses no number."""
    return Console(highlight=False, width=max(least, Console().width))


def console_of_machine(device: torch.device) -> Console:
    """That has told of the machine, and whether others are at work on it."""
    console = make_console()
    console.print(machine_table(describe(device)))
    if busy():
        console.print("  The machine is busy: expect noise.\n", style="red")
    return console


def format_time(seconds: float) -> str:
    unit, scale = next(
        (pair for pair in (("s", 1.0), ("ms", 1e-3)) if seconds >= pair[1]), ("us", 1e-6)
    )
    value = seconds / scale
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"


def format_bytes(size: float) -> str:
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def styled_ratio(ratio: float) -> Text:
    style = "green" if ratio < 0.95 else "red" if ratio > 1.05 else ""
    return Text(f"{ratio:.2f}x", style=style)


def plain_table(title: str, columns: Sequence[str], left: int = 1, caption: str = "") -> Table:
    """`left` columns of text, then columns of numbers. Columns without names get no header."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return table


def machine_table(facts: Mapping[str, str]) -> Table:
    table = plain_table("Machine and build", ("", ""), left=2)
    for key, value in facts.items():
        table.add_row(key, value)
    return table


def bandwidth_table(bandwidths: Sequence[Bandwidth], source: str) -> Table:
    table = plain_table(
        "The machine's own bandwidth, GB/s",
        ("bytes a tensor", "copy (1 read, 1 write)", "2 reads, 1 write"),
        caption=source,
    )
    for each in bandwidths:
        copy, mix = f"{each.copy_gb_per_s:.1f}", f"{each.mix_gb_per_s:.1f}"
        table.add_row(format_bytes(each.tensor_bytes), copy, mix)
    return table


def result_tables(results: Sequence[Row | Failure]) -> list[Table]:
    """One table a model and dtype; fresh outputs on the left, given ones on the right."""

    def table_key(result: Line) -> tuple[str, ...]:
        return (result.model, result.variant, result.layout, result.dtype, str(result.d_ff))

    def line_key(result: Line) -> tuple[int, str]:
        return (result.tokens, result.direction)

    tables = []
    for (model, variant, layout, dtype, d_ff), group in grouped(results, table_key):
        inputs = "two tensors" if layout == "separate" else f"packed, {layout}"
        metrics = ("time", "GB/s", "% limit", "vs eager")
        table = plain_table(
            f"{model}: {variant}, {inputs}, d_ff {d_ff}, {dtype}",
            ["tokens", "pass", ""]
            + [f"fresh\n{metrics[0]}", *(f"\n{metric}" for metric in metrics[1:])]
            + [f"given\n{metrics[0]}", *(f"\n{metric}" for metric in metrics[1:])],
            left=3,
        )
        for (tokens, direction), lines in grouped(group, line_key, ordered=True):
            heading = [str(tokens), direction.replace("forward+backward", "fwd + bwd")]
            for competitor, outputs in grouped(lines, lambda result: result.competitor):
                by_output = {result.output: result for result in outputs}
                name = Text(competitor, style="bold" if competitor == OURS else "")
                cells: list[str | Text] = [*heading, name]
                for output in ("fresh", "given"):
                    cells += metric_cells(by_output.get(output))
                table.add_row(*cells)
                heading = ["", ""]
            table.add_section()
        tables.append(table)
    return tables


def metric_cells(row: Row | Failure | None) -> list[str | Text]:
    if not isinstance(row, Row):
        return ["failed" if row else "-", "", "", ""]
    return [
        format_time(row.seconds),
        f"{row.gb_per_s:.1f}",
        f"{row.percent_of_limit:.0f}",
        styled_ratio(row.ratio_to_eager),
    ]


def grouped(
    rows: Iterable[AnyLine], key: Callable[[AnyLine], Key], ordered: bool = False
) -> list[tuple[Key, list[AnyLine]]]:
    """(key, rows) in order of first appearance, or sorted by key."""
    seen: dict[Key, list[AnyLine]] = {}
    for row in rows:
        seen.setdefault(key(row), []).append(row)
    return sorted(seen.items()) if ordered else list(seen.items())


def summary_table(rows: Sequence[Row]) -> Table:
    """Geometric means over the models of time relative to eager."""
    contenders = list(dict.fromkeys((row.competitor, row.output) for row in rows))
    contenders.sort(key=lambda contender: contender[1])  # fresh first
    table = plain_table(
        "Time relative to eager with a fresh output, geometric mean over the models",
        ["dtype", "pass", "tokens", *(f"{name}\n{output}" for name, output in contenders)],
        left=2,
    )
    for key, group in grouped(rows, lambda row: (row.dtype, row.direction, row.tokens), True):
        cells: list[str | Text] = [str(part) for part in key]
        for contender in contenders:
            ratios = [r.ratio_to_eager for r in group if (r.competitor, r.output) == contender]
            cells.append(styled_ratio(statistics.geometric_mean(ratios)) if ratios else "-")
        table.add_row(*cells)
    return table


def accuracy_table(rows: Sequence[Row]) -> Table:
    table = plain_table(
        "Checked against the float64 oracle",
        ("", "dtype", "results", "worst error, eps (1 + |exact|)", "relative RMS error"),
        left=2,
    )
    for (name, dtype), group in grouped(rows, lambda row: (row.competitor, row.dtype)):
        worst = max(row.worst_error_eps for row in group)
        rms = max(row.rms_error for row in group)
        table.add_row(name, dtype, str(len(group)), f"{worst:.2f}", f"{rms:.1e}")
    return table


def write_csv(path: Path, rows: Sequence[object]) -> None:
    """Dataclass instances of one type, a column a field."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])  # type: ignore[arg-type]
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)  # type: ignore[call-overload]


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
