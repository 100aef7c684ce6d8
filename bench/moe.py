"""Times experts of a mixture and measures what they keep for backward: the gated unit with a weight
a row against what one writes with torch, and the whole block against those of transformers."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.table import Table
from rich.text import Text

from . import report
from .cases import DTYPES
from .experts import Case, has_transformers, make_cases
from .ffn import BOTH, FORWARD
from .footprint import peak_bytes, saved_bytes
from .timing import Clock, interleave, make_sampler

READING = """Times are medians of interleaved rounds, ratios those to the first line. Saved: what
autograd keeps from the forward to the backward pass, bytes a token, each storage once, parameters
left out. Peak: the most that torch's allocator held during both, above what it held before. Errors:
of the result, and the largest of the gradients, in the Euclidean norm, relative to float64.
"""


@dataclass(frozen=True)
class Line:
    what: str  # "unit" or "experts"
    contender: str
    dtype: str
    tokens: int


@dataclass(frozen=True)
class Time(Line):
    direction: str
    seconds: float
    ratio: float  # to the first contender
    rounds: int


@dataclass(frozen=True)
class Usage(Line):
    saved_bytes: int
    peak_bytes: int
    error: float  # of the result
    largest_error: float  # of the gradients


def times(case: Case, direction: str, seconds: float) -> Iterator[Time]:
    """Rounds in which everyone runs once."""
    if direction == FORWARD:
        calls = {each.name: each.inference(case.x) for each in case.contenders if each.forward}
    else:
        calls = {each.name: each.training(case.x, case.grad_y) for each in case.contenders}
    device = case.x.device
    samplers = {(name, "fresh"): make_sampler([call], device) for name, call in calls.items()}
    timings = interleave(samplers, seconds, Clock(10 * seconds), 10**6)
    first = next(iter(samplers))
    for label in samplers:
        yield Time(
            **vars(Line(case.what, label[0], case.dtype, case.tokens)),
            direction=direction,
            seconds=timings.seconds(label),
            ratio=timings.ratio(label, first),
            rounds=len(timings.samples[label]),
        )


def usages(case: Case) -> Iterator[Usage]:
    for each in case.contenders:
        parameters = [weight for weight in each.weights if weight.dim() == 3]
        saved = saved_bytes(partial(each.function, case.x), parameters)
        call = each.training(case.x, case.grad_y)
        call()  # what the first call alone needs is not counted
        line = vars(Line(case.what, each.name, case.dtype, case.tokens))
        peak = peak_bytes(call, case.x.device)
        error, *of_gradients = case.errors[each.name]
        yield Usage(
            **line,
            saved_bytes=saved,
            peak_bytes=peak,
            error=error,
            largest_error=max(of_gradients),
        )


def time_tables(rows: Sequence[Time]) -> Iterator[Table]:
    """A line a contender, a column for each dtype and number of tokens."""
    for (what, direction), group in report.grouped(rows, lambda row: (row.what, row.direction)):
        cases = dict.fromkeys(f"{row.dtype}\n{row.tokens} tokens" for row in group)
        title = f"{what}, {direction}: time, and that of the others relative to it"
        table = report.plain_table(title, ["", *cases])
        first = group[0].contender
        for name, line in report.grouped(group, lambda row: row.contender):
            cells: list[str | Text] = [report.styled_ratio(row.ratio) for row in line]
            if name == first:
                cells = [report.format_time(row.seconds) for row in line]
            table.add_row(name, *cells)
        yield table


def usage_tables(rows: Sequence[Usage]) -> Iterator[Table]:
    """A line a contender, for each dtype and number of tokens."""
    names = ["saved", "peak", "error", "largest of\nthe gradients"]
    for what, group in report.grouped(rows, lambda row: row.what):
        table = report.plain_table(f"{what}: memory and errors", ["", "", *names], left=2)
        for (dtype, tokens), lines in report.grouped(group, lambda row: (row.dtype, row.tokens)):
            heading = f"{dtype}, {tokens} tokens"
            for row in lines:
                peak = f"{row.peak_bytes / 2**20:.1f} MiB"
                errors = (f"{error:.1e}" for error in (row.error, row.largest_error))
                cells = (f"{row.saved_bytes / row.tokens:.0f}", peak, *errors)
                table.add_row(heading, row.contender, *cells)
                heading = ""
            table.add_section()
        yield table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--quick", action="store_true", help="64 tokens, bf16, without torch.compile")
    option("--experts", type=int, default=16)
    option("--top-k", type=int, default=4, metavar="K")
    option("--d-model", type=int, default=1024)
    option("--d-ff", type=int, default=512)
    option("--tokens", nargs="+", type=int, metavar="N", help="(16 4096; quick: 64)")
    option("--dtypes", nargs="+", choices=DTYPES, help="(bf16 fp32)")
    option("--no-compile", action="store_true", help="without torch.compile")
    option("--seconds", type=float, metavar="S", help="for each case (30; quick: 2)")


def main(args: argparse.Namespace) -> int:
    console = report.console_of_machine(args.device)
    seconds = args.seconds if args.seconds is not None else 2 if args.quick else 30
    rows: list[Time] = []
    kept: list[Usage] = []
    for case in make_cases(args):
        with console.status(str(case)):
            rows += times(case, FORWARD, seconds / 3)
            rows += times(case, BOTH, seconds * 2 / 3)
            kept += usages(case)
    console.print(READING, style="italic")
    for table in (*time_tables(rows), *usage_tables(kept)):
        console.print(table)
    if not has_transformers():
        console.print("  not installed: transformers, so no whole experts")
    report.write_csv(args.output / "moe.csv", rows)
    report.write_csv(args.output / "moe-memory.csv", kept)
    console.print(f"  written to {args.output}: moe.csv, moe-memory.csv")
    return 0
