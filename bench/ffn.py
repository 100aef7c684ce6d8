"""Times feed-forward blocks, forward alone and forward with backward, against the block of LLaMA in
eager PyTorch: torch.compile of it, a checkpoint of it, and ours at each level of recomputation."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from . import blocks, report
from .blocks import Case, Line
from .competitors import EAGER
from .timing import Clock, interleave, make_sampler

FORWARD, BOTH = "forward", "forward+backward"


@dataclass(frozen=True)
class Time(Line):
    direction: str
    seconds: float
    ratio_to_eager: float
    rounds: int


def times(case: Case, direction: str, seconds: float) -> Iterator[Time]:
    """Rounds in which every block runs once."""
    device = case.x.device
    if direction == FORWARD:
        calls = {each.name: each.inference(case.x) for each in case.blocks if each.forward}
    else:
        calls = {
            each.name: each.training(case.x, case.grad_y) for each in case.blocks if each.backward
        }
    samplers = {(name, "fresh"): make_sampler([call], device) for name, call in calls.items()}
    timings = interleave(samplers, seconds, Clock(10 * seconds), 10**6)
    for label in samplers:
        yield Time(
            **case.line(label[0]),
            direction=direction,
            seconds=timings.seconds(label),
            ratio_to_eager=timings.ratio(label, (EAGER, "fresh")),
            rounds=len(timings.samples[label]),
        )


def result_tables(rows: Sequence[Time]) -> Iterator[Table]:
    """One a direction: a line a block, a column for each dtype and number of tokens."""
    for direction, group in report.grouped(rows, lambda row: row.direction):
        cases = dict.fromkeys(f"{row.dtype}\n{row.tokens} tokens" for row in group)
        table = report.plain_table(
            f"Feed-forward block, {direction}: time of eager, and of the others relative to it",
            ["", *cases],
        )
        for block, line in report.grouped(group, lambda row: row.block):
            cells: list[str | Text] = [report.styled_ratio(row.ratio_to_eager) for row in line]
            if block == EAGER:
                cells = [report.format_time(row.seconds) for row in line]
            table.add_row(block, *cells)
        yield table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    blocks.add_arguments(parser)
    parser.add_argument("--seconds", type=float, metavar="S", help="for each case (30; quick: 3)")


def main(args: argparse.Namespace) -> int:
    console = report.console_of_machine(args.device)
    seconds = args.seconds or (3 if args.quick else 30)
    rows: list[Time] = []
    for case in blocks.make_cases(args, default_tokens=[256, 4096]):
        with console.status(str(case)):
            rows += times(case, FORWARD, seconds / 3)
            rows += times(case, BOTH, seconds * 2 / 3)
    for table in result_tables(rows):
        console.print(table)
    console.print(f"  {blocks.absent(args.device)}")
    report.write_csv(args.output / "ffn.csv", rows)
    console.print(f"  written to {args.output}: ffn.csv")
    return 0
