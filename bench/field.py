"""Times this library and others, each in a process and an environment of its own, against eager
PyTorch on the same operands, and counts the ulps of each. CPU only; the first run installs them."""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from . import plots, report
from .machine import busy, describe
from .rivals.check import Ruler, Ulps
from .rivals.driver import Field, assemble, measure, values
from .rivals.environments import ROOT
from .rivals.results import (
    Result,
    make_results,
    markdown,
    screen_tables,
    write_block,
)
from .rivals.table import ABSENT, ADAPTERS, EAGER, OURS
from .rivals.units import DTYPES, GATED, GATED_LINEAR, LINEAR, UNITS, Case, Pool, pool_size

TOKENS = (1, 16, 256, 4096)
COLS = 11008  # Llama 2 7B
QUICK = ("swiglu", "geglu_tanh", "gelu")
PICTURED = ("swiglu", "geglu", "geglu_tanh", "reglu")
MOST_PRODUCTS = 256  # tokens of a unit with a matrix product, which is nearly all of its time
PICTURE = "![Time of gated units relative to eager PyTorch by number of tokens](field.png)"
WIDTH = 160  # of a table with all competitors
DOCUMENT = ROOT / "docs" / "field.md"


def make_cases(args: argparse.Namespace, tokens: list[int], cols: int) -> Iterator[Case]:
    """Those of one dtype and size follow each other, for their operands are read once."""
    for dtype in args.dtypes or (["bf16", "fp32"] if args.quick else DTYPES):
        for count in tokens:
            for name in args.units or (QUICK if args.quick else UNITS):
                product = UNITS[name].form in (LINEAR, GATED_LINEAR)
                if not product or (count <= MOST_PRODUCTS and dtype != "fp16"):
                    yield Case(name, dtype, count, cols)
            for name in args.units or (QUICK if args.quick else UNITS):
                if UNITS[name].form == GATED and not args.forward:
                    yield Case(name, dtype, count, cols, backward=True)


def weight(case: Case) -> float:
    """The case's share of the time."""
    return 1 + case.tensor_bytes / 50e6


def count_ulps(
    field: Field, cases: list[Case], seed: int
) -> Iterator[tuple[tuple[str, str, str], Ulps]]:
    """(competitor, unit, dtype) and the worst errors; a competitor that fails is noted."""
    rulers = {dtype: Ruler(dtype, seed) for dtype in dict.fromkeys(c.dtype for c in cases)}
    first = {(c.unit, c.dtype): c for c in reversed(cases) if not c.backward}
    for (unit, dtype), case in first.items():
        if case.form in (LINEAR, GATED_LINEAR):
            continue
        ruler = rulers[dtype]
        right, operands = ruler.exact(unit), ruler.operands(unit)
        for one in field.competitors:
            result = values(field, one, case, operands)
            if result is not None:
                yield (one.name, unit, dtype), ruler.ulps(result, right)


def run(field: Field, cases: list[Case], args: argparse.Namespace, say: Console) -> list[Result]:
    """Fills `field.failures` as well. A run that is stopped has left what it had."""
    results: list[Result] = []
    start = time.monotonic()
    say.print("counting ulps")
    worst = dict(count_ulps(field, cases, args.seed))
    with tempfile.TemporaryDirectory() as folder:
        size = pool_size([case.tokens for case in cases], cases[0].cols)
        pool = Pool(Path(folder), size)
        pool.write(list(dict.fromkeys(case.dtype for case in cases)), args.seed)
        for index, case in enumerate(cases):
            seconds = args.seconds * weight(case) / sum(map(weight, cases))
            timings = measure(field, case, pool, seconds, args.rounds)
            spent = f"{time.monotonic() - start:.0f} s"
            if timings is None:
                say.print(f"{index + 1}/{len(cases)} {case}: eager failed ({spent})")
                continue
            results += make_results(case, timings, worst)
            report.write_csv(args.output / "field.csv", results)
            count, rounds = len(timings.samples), len(timings.samples[EAGER, "fresh"])
            head = f"{index + 1}/{len(cases)} {case}"
            say.print(f"{head}: {count} competitors, {rounds} rounds ({spent})")
    return results


def head(field: Field, facts: dict[str, str]) -> Iterator[str]:
    """What was measured, when and where, in Markdown."""
    kept = ("date", "cpu", "cores", "last-level cache", "system", "load")
    for key in (key for key in kept if key in facts):
        yield f"- {key}: {facts[key]}"
    yield "- versions: " + ", ".join(dict.fromkeys(one.version for one in field.competitors))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--quick", action="store_true", help="three units, bf16 and fp32, few small sizes")
    option("--competitors", nargs="+", choices=ADAPTERS, metavar="NAME", default=list(ADAPTERS))
    option("--units", nargs="+", choices=UNITS, metavar="NAME", help="(all)")
    option("--dtypes", nargs="+", choices=DTYPES, help="(all; quick: bf16 fp32)")
    option("--tokens", nargs="+", type=int, metavar="N", help="(1 16 256 4096; quick: 1 64)")
    option("--cols", type=int, metavar="N", help="(11008; quick: 2048)")
    option("--forward", action="store_true", help="without backward")
    option("--seconds", type=float, metavar="S", help="of timing in all (240; quick: 10)")
    option("--rounds", type=int, default=25, metavar="N", help="at most for each case (25)")
    option(
        "--limit",
        type=float,
        default=60,
        metavar="S",
        help="for an answer of one (60); for its installation 30 times that",
    )
    option("--write-docs", action="store_true", help=f"into {DOCUMENT.relative_to(ROOT)} too")


def main(args: argparse.Namespace) -> int:
    console = report.make_console(WIDTH)
    cpu = torch.device("cpu")
    facts = describe(cpu)
    console.print(report.machine_table(facts))
    if busy():
        facts["load"] = "the machine was busy with other work: expect noise"
        console.print("  The machine is busy: expect noise.\n", style="red")
    args.seconds = args.seconds or (10 if args.quick else 240)
    tokens = args.tokens or ([1, 64] if args.quick else list(TOKENS))
    cases = list(make_cases(args, sorted(tokens), args.cols or (2048 if args.quick else COLS)))
    names = list(dict.fromkeys([EAGER, *args.competitors]))
    output = args.output.resolve()
    field = assemble(names, output, torch.get_num_threads(), args.limit, console.print)
    field.absent |= ABSENT
    try:
        results = run(field, cases, args, console)
    finally:
        field.stop()
    if not results:
        return 1
    for table in screen_tables(results):
        console.print(table)
    lines = [f"- {note}" for note in field.notes()]
    console.print(*lines, sep="\n", style="yellow")
    page = [*head(field, facts), "", PICTURE, "", *markdown(results)]
    page += ["Not in the tables:", "", *lines, ""]
    (args.output / "field.md").write_text("\n".join(page))
    pictures = [args.output / "field.png"]
    if args.write_docs:
        DOCUMENT.write_text(write_block(DOCUMENT.read_text(), page))
        pictures.append(DOCUMENT.with_suffix(".png"))
    title = f"{facts['cpu']}, {torch.get_num_threads()} threads, {facts['date'][:10]}"
    pictured = [each for each in results if each.unit in PICTURED] or results
    if len(field.competitors) > 1:
        for path in pictures:
            plots.plot_field(path, pictured, title)
    console.print(f"  written to {args.output}: field.csv, field.md, field.png")
    return int(any(name.startswith(OURS) for name, _ in field.failures))
