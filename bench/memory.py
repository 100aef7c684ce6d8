"""What feed-forward blocks keep for their backward pass, and the most memory that a forward and a
backward pass take, against the block of LLaMA in eager PyTorch."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.table import Table
from torch import Tensor

from . import blocks, report
from .blocks import Block, Case, Line
from .footprint import peak_bytes, saved_bytes
from .machine import describe
from .plots import plot_bars

READING = """Saved: what autograd keeps from the forward to the backward pass, bytes a token, each
storage once, weights left out. Peak: the most that torch's allocator held during both, above what
it held before, gradients of the weights included; of a block, and of some in a row.
"""

IN_A_ROW = 4  # a model holds what all its blocks have saved while the last one works


@dataclass(frozen=True)
class Usage(Line):
    saved_bytes: int
    peak_bytes: int
    row_peak_bytes: int  # of IN_A_ROW blocks


def in_a_row(block: Block) -> Block:
    def function(x: Tensor) -> Tensor:
        for _ in range(IN_A_ROW):
            x = block.function(x)
        return x

    return replace(block, function=function)


def usages(case: Case) -> Iterator[Usage]:
    for block in case.blocks:
        if block.backward:
            saved = saved_bytes(partial(block.function, case.x), block.weights)
            block.training(case.x, case.grad_y)()  # what the first call alone needs is not counted
            calls = [each.training(case.x, case.grad_y) for each in (block, in_a_row(block))]
            one, row = (peak_bytes(call, case.x.device) for call in calls)
            yield Usage(
                **case.line(block.name), saved_bytes=saved, peak_bytes=one, row_peak_bytes=row
            )


def result_table(rows: Sequence[Usage]) -> Table:
    """A line a block; columns for each dtype and number of tokens."""
    cases = list(dict.fromkeys((row.dtype, row.tokens) for row in rows))
    whats = ("saved", "peak", f"{IN_A_ROW} blocks")
    names = [f"{dtype}, {tokens}\n{what}" for dtype, tokens in cases for what in whats]
    table = report.plain_table("Memory of a feed-forward block, by dtype and tokens", ["", *names])
    for block, group in report.grouped(rows, lambda row: row.block):
        cells = []
        for row in group:
            peaks = (f"{size / 2**20:.1f} MiB" for size in (row.peak_bytes, row.row_peak_bytes))
            cells += [f"{row.saved_bytes / row.tokens:.0f}", *peaks]
        table.add_row(block, *cells)
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    blocks.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    console = report.make_console()
    console.print(report.machine_table(describe(args.device)))
    rows: list[Usage] = []
    for case in blocks.make_cases(args, default_tokens=[4096]):
        with console.status(str(case)):
            rows += usages(case)
    console.print(READING, style="italic")
    console.print(result_table(rows))
    console.print(f"  {blocks.absent(args.device)}")
    report.write_csv(args.output / "memory.csv", rows)
    last = [row for row in rows if (row.dtype, row.tokens) == (rows[0].dtype, rows[-1].tokens)]
    plot(args.output / "memory.png", last)
    console.print(f"  written to {args.output}: memory.csv, memory.png")
    return 0


def plot(path: Path, rows: Sequence[Usage]) -> None:
    """One case; of ours the blocks with packed weights, as separate ones take the same to 1%."""
    each = rows[0]
    shown = {row.block.replace(", packed", ""): row for row in rows if "separate" not in row.block}
    panels = {
        "kept for backward,\nKiB a token": {
            name: row.saved_bytes / row.tokens / 2**10 for name, row in shown.items()
        },
        f"peak of {IN_A_ROW} blocks in a row,\n{each.tokens} tokens, MiB": {
            name: row.row_peak_bytes / 2**20 for name, row in shown.items()
        },
    }
    title = f"Memory of a feed-forward block, {each.d_model} and {each.d_ff} wide, {each.dtype}"
    plot_bars(path, panels, title)
