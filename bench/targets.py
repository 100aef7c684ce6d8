"""Measures the numbers this library has set itself on the CPU, and prints where it was, what is to
be reached and what this machine gives.

They are medians of interleaved ratios of time to what one writes with torch, with a fresh output
there and a given one here, 2 threads, where the line says nothing else. "Was" is of 2 cores of an
Intel Xeon with AVX-512 at the release 0.1.0.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from . import report
from .machine import busy, cpu_model, describe
from .target_cells import (
    Measure,
    bandwidth,
    bias_gradients,
    large_blocks,
    layouts,
    packed_rows,
    saved,
    slow_activations,
    small_blocks,
    small_calls,
    source_build,
    units,
)

BF16, FP32 = torch.bfloat16, torch.float32
OPTIONS = ("swiglu, limit=7.0", "swiglu, two biases", "swiglu, beta=1.5")


@dataclass(frozen=True)
class Target:
    """One line: no cell is to be above at_most, or their sum where they are counted."""

    what: str
    was: str
    at_most: float
    measure: Measure
    seconds: float = 1.0  # for each cell
    form: str = "ratio"  # or "share", the inverse of a ratio; "count" of cells; "seconds"


@dataclass(frozen=True)
class Cell:
    """A line of the CSV."""

    what: str
    cell: str
    at_most: float
    measured: float


def all_targets(quick: bool) -> Iterator[Target]:
    widths = (11008,) if quick else (11008, 13824)
    large, pair = 768 if quick else 3072, ("swiglu", "glu")
    reach = {
        BF16: ((24, "0.50-0.55", 0.38), (192, "0.37", 0.28), (large, "0.12-0.13", 0.12)),
        FP32: ((24, "0.71-0.76", 0.50), (192, "0.47-0.52", 0.40), (large, "0.12", 0.12)),
    }
    for dtype, name in ((BF16, "bf16"), (FP32, "fp32")):
        for tokens, was, at_most in reach[dtype]:
            what = f"swiglu, glu {name}, {tokens} tokens"
            yield Target(what, was, at_most, units(pair, (dtype,), tokens, widths))
    for variant, cells in {
        "geglu": ((24, "0.85", 0.55), (192, "0.61", 0.50)),
        "geglu_tanh": ((24, "0.39", 0.30), (192, "0.27", 0.24)),
    }.items():
        for tokens, was, at_most in cells:
            measure = units((variant,), (FP32,), tokens, widths)
            yield Target(f"{variant} fp32, {tokens} tokens", was, at_most, measure)
    for tokens in (24, 192):
        measure = units(("reglu",), (BF16, FP32), tokens, widths)
        yield Target(f"reglu bf16, fp32, {tokens} tokens", "0.42-0.98", 0.6, measure)
    yield Target(
        "swiglu_oai 256 x 2880 interleaved over swiglu gate_up",
        "4.0, 3.1",
        1.4,
        layouts("swiglu_oai", 256, 2880),
    )
    yield Target(
        "swiglu 256 x 2880 interleaved over gate_up", "3.2", 1.2, layouts("swiglu", 256, 2880)
    )
    measure = packed_rows((16, 64), (1 if quick else 16) << 20)
    yield Target(f"packed rows of 16, 64, {1 if quick else 16}M, bf16", "1.7", 0.3, measure)
    for what, was, names in (
        ("plain", "1.2", ("swiglu",)),
        ("out=", "", ("swiglu, out=",)),
        ("limit, biases, beta", "", OPTIONS),
    ):
        yield Target(f"[1, 64]: {what}", was, 1.2, small_calls("no grad", names))
    for what, was, call in (
        ("plain", "1.27", "swiglu, forward and backward"),
        ("two biases", "2.0", "swiglu, two biases, forward and backward"),
    ):
        measure = small_calls("grad", (call,))
        yield Target(f"[1, 64], forward+backward: {what}", was, 1.2, measure)
    yield Target(
        "16 x 2816, forward+backward with a bias", "1.4-1.6", 0.8, bias_gradients(16, 2816)
    )
    yield Target(
        "activations alone, 16 rows: slower than 0.95 of torch",
        "33 of 360",
        0,
        slow_activations(4 if quick else None),
        0.12,
        "count",
    )
    packings = (False,) if quick else (False, True)
    measure = small_blocks(64, 128, packings)
    yield Target("GatedFFN 64/128, 1 and 8 tokens", "1.2-1.6", 1.0, measure, 0.3)
    if not quick:
        # Nearly all of it are products, of which no two measurements agree to the last percent.
        measure = small_blocks(1024, 2816, packings)
        yield Target("GatedFFN 1024/2816, 1 and 8 tokens", "1.0", 1.05, measure, 0.5)
    yield Target(
        f"share of bandwidth, {large} tokens of {widths[0]}",
        "",
        1 / 0.9,
        bandwidth(large, widths[0]),
        form="share",
    )
    tokens = 512 if quick else 4096
    block, both = f"GatedFFN bf16, {tokens} tokens", "forward+backward"
    kept = ("none", "product")
    yield Target(
        f"{block}, {both}: none, product", "0.91-0.97", 1.0, large_blocks(kept, True, tokens), 4.0
    )
    yield Target(
        f"{block}, {both}: all", "1.14-1.18", 1.25, large_blocks(("all",), True, tokens), 4.0
    )
    yield Target(
        f"{block}, forward", "0.81-0.85", 0.85, large_blocks(("product",), False, tokens), 3.0
    )
    yield Target(f"{block}, saved: product", "52 of 96", 0.55, saved(("product",), tokens))
    yield Target(f"{block}, saved: all", "8 of 96", 0.09, saved(("all",), tokens))
    if not quick:
        yield Target("source build for the CPU", "100", 90, source_build(), form="seconds")


def measured_text(target: Target, values: list[float]) -> str:
    low, high = min(values), max(values)
    if target.form == "count":
        return f"{sum(values):.0f} of {len(values)}"
    if target.form == "seconds":
        return f"{high:.0f} s"
    if target.form == "share":
        low, high = 1 / high, 1 / low
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}-{high:.2f}"


def is_met(target: Target, values: list[float]) -> bool:
    return (sum if target.form == "count" else max)(values) <= target.at_most


def reach_text(target: Target) -> str:
    if target.form == "share":
        return f">= {1 / target.at_most:.2f}"
    return f"{target.at_most:g}" + " s" * (target.form == "seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a minute: fewer cells and rounds")
    parser.add_argument("--only", default="", metavar="TEXT", help="lines with TEXT, e.g. swiglu")
    parser.add_argument("--cells", action="store_true", help="print each cell, not lines alone")


def main(args: argparse.Namespace) -> int:
    torch.manual_seed(args.seed)
    console = report.make_console()
    threads = args.threads or 2
    torch.set_num_threads(threads)
    console.print(report.machine_table(describe(torch.device("cpu"))))
    if busy():
        console.print("  The machine is busy: expect noise.\n", style="red")
    table = report.plain_table(
        f"Time over that of torch, d_ff 11008 to 13824, on {cpu_model()}",
        ("", "was", "at most", "measured", ""),
    )
    rows: list[Cell] = []
    worst: list[Cell] = []
    missed = count = 0
    for target in all_targets(args.quick):
        if args.only not in target.what:
            continue
        torch.set_num_threads(threads)
        own: list[Cell] = []
        with console.status(target.what):
            try:
                for name, value in target.measure(target.seconds * (0.4 if args.quick else 1.0)):
                    own.append(Cell(target.what, name, target.at_most, value))
                    if args.cells:
                        console.print(f"  {target.what}: {name}: {value:.3f}")
            except RuntimeError as problem:  # which must not end the run
                console.print(f"  {target.what}: {str(problem).splitlines()[0]}", style="red")
        values = [each.measured for each in own]
        met = bool(values) and is_met(target, values)
        text = measured_text(target, values) if values else "failed"
        style = "" if met else "red"
        outcome = "met" if met else "missed"
        table.add_row(target.what, target.was, reach_text(target), text, outcome, style=style)
        if values and not met:
            worst.append(max(own, key=lambda each: each.measured))
        missed, count, rows = missed + (not met), count + 1, rows + own
        if rows:
            report.write_csv(args.output / "targets.csv", rows)  # a stopped run keeps these
    console.print(table)
    for cell in worst:
        console.print(f"  {cell.what}, worst: {cell.cell}", style="yellow")
    console.print(f"  {count - missed} of {count} lines met; cells: {args.output}/targets.csv")
    return int(missed > 0)
