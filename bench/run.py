"""Checks every competitor against a float64 oracle, times them on the feed-forward shapes of real
models, and trains a small classifier on handwritten digits. Prints tables; writes JSON, CSV, plots."""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import fused_acts

from . import report
from .bandwidth import limit_source, measure_bandwidth
from .cases import DTYPES, LAYOUTS, MODELS, TOKENS, Case, build_cases
from .competitors import OURS, Form, build_competitors, missing_peers
from .digits import run_digits
from .machine import describe, free_memory
from .measure import Measurement, Row, measure
from .plots import plot_results
from .timing import Clock

DIGITS_SECONDS = 30.0  # kept back for the training at the end


@dataclass
class Session:
    """What a series of measurements has come to."""

    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what failed or was left out, and why

    @property
    def rows(self) -> list[Row]:
        return [row for measurement in self.measurements for row in measurement.rows()]

    @property
    def ours_failed(self) -> bool:
        return any(label[0] == OURS for each in self.measurements for label in each.failures)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    less = parser.add_argument_group("less or more")
    less.add_argument("--quick", action="store_true", help="about a minute: few cases, few rounds")
    less.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="time limit of the whole run (420; quick: 60)",
    )
    less.add_argument("--rounds", type=int, help="most rounds a case (25; quick: 7)")
    less.add_argument(
        "--models", nargs="+", metavar="NAME", help="those with NAME in their name, e.g. llama t5"
    )
    less.add_argument("--tokens", nargs="+", type=int, metavar="N", help=f"default: {TOKENS}")
    less.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16"], help="default: bf16")
    less.add_argument(
        "--variants",
        nargs="+",
        choices=["own", "all", *fused_acts.variants()],
        default=["own"],
        help="instead of each model's own",
    )
    less.add_argument("--layout", choices=LAYOUTS, help="instead of each model's own")
    less.add_argument(
        "--passes", nargs="+", choices=["forward", "both"], default=["forward", "both"]
    )
    less.add_argument(
        "--compile",
        choices=["dynamic", "static", "off"],
        default="dynamic",
        help="torch.compile: once for all sizes (default), for each size, or not at all",
    )
    less.add_argument("--no-digits", action="store_true", help="leave out the training")


def main(args: argparse.Namespace) -> int:
    clock = Clock(args.budget or (60 if args.quick else 420))
    console = report.make_console()
    memory = 0.8 * free_memory(args.device)
    facts = describe(args.device)
    console.print(report.machine_table(facts))
    bandwidths = measure_bandwidth(args.device, memory)
    console.print(report.bandwidth_table(bandwidths, limit_source(args.device)))
    if missing := missing_peers():
        console.print(f"  not installed: {', '.join(missing)}\n")

    session = Session()
    measuring = Clock(clock.left() - (0 if args.no_digits else DIGITS_SECONDS))
    max_rounds = args.rounds or (7 if args.quick else 25)
    cases = choose_cases(args, memory)
    measure_all(session, cases, args.device, args.compile, max_rounds, measuring, console)
    order = [case.model for case in cases]
    session.measurements.sort(key=lambda each: order.index(each.case.model))

    rows = session.rows
    for table in report.result_tables(rows):
        console.print(table)
    for note in dict.fromkeys(session.notes):
        console.print(f"  {note}", style="yellow")
    if rows:
        console.print(report.accuracy_table(rows))
        console.print(report.summary_table(rows))
        write_files(args.output, console, facts, bandwidths, session)
    if not args.no_digits:
        run_digits(console, args.output, args.device, "swiglu", 10 if args.quick else 30, args.seed)
    return int(session.ours_failed or not rows)


def choose_cases(args: argparse.Namespace, memory: float) -> list[Case]:
    names = [name.lower() for name in args.models or ()]
    if args.quick and not names:
        names = ["llama-3 8b", "gemma"]
    models = [m for m in MODELS if not names or any(name in m.name.lower() for name in names)]
    variants = fused_acts.variants() if "all" in args.variants else args.variants
    models = [
        replace(
            model,
            variant=model.variant if variant == "own" else variant,
            layout=args.layout or model.layout,
        )
        for model in models
        for variant in variants
    ]
    tokens = args.tokens or ((1, 256) if args.quick else TOKENS)
    backward = [direction == "both" for direction in args.passes]
    return build_cases(models, tokens, [DTYPES[name] for name in args.dtypes], backward, memory)


def weight(case: Case) -> float:
    """The share of the time that a case is given: what it costs to set up, and by its size."""
    return 0.5 + 6e-9 * case.traffic_bytes


def measure_all(
    session: Session,
    cases: list[Case],
    device: torch.device,
    compile_mode: str,
    max_rounds: int,
    clock: Clock,
    console: Console,
) -> None:
    """Shares the time that is left among the cases that are left; stops when there is none."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        for index, case in enumerate(cases):
            share = clock.left() * weight(case) / sum(map(weight, cases[index:]))
            # The first round and the warm-up cannot be shortened: about two seconds a GB of traffic.
            if clock.left() < 1 + 2e-9 * case.traffic_bytes:
                session.notes.append(f"time is up, left out: {case}")
                continue

            def describe_step(step: str, case: Case = case) -> None:
                progress.update(task, description=f"{case}: {step}")

            try:
                measure_one(
                    session, case, device, compile_mode, max_rounds, share, clock, describe_step
                )
            except KeyboardInterrupt:
                session.notes.append(f"stopped by the user at: {case}")
                return
            except RuntimeError as problem:
                session.notes.append(f"left out: {case}: {str(problem).splitlines()[0]}")
            progress.advance(task)


def measure_one(
    session: Session,
    case: Case,
    device: torch.device,
    compile_mode: str,
    max_rounds: int,
    share: float,
    clock: Clock,
    note: Callable[[str], None],
) -> None:
    form = Form(case.model.variant, case.model.layout, case.dtype, device)
    competitors, failures = build_competitors(form, compile_mode)
    measurement = measure(
        case,
        competitors,
        device,
        seconds=share,
        clock=clock,
        max_rounds=max_rounds,
        note=note,
    )
    session.measurements.append(measurement)
    session.notes += [f"{package}: {reason}" for package, reason in failures.items()]
    session.notes += [
        f"{label[0]} ({label[1]} output), {case}: {reason}"
        for label, reason in measurement.failures.items()
    ]


def write_files(
    output: Path, console: Console, facts: dict[str, str], bandwidths: list, session: Session
) -> None:
    rows = session.rows
    report.write_csv(output / "results.csv", rows)
    content = {
        "machine": facts,
        "bandwidth": [asdict(each) for each in bandwidths],
        "notes": session.notes,
        "results": [asdict(row) for row in rows],
    }
    report.write_json(output / "results.json", content)
    names = []
    for dtype in dict.fromkeys(row.dtype for row in rows):
        path = output / f"results-{dtype}.png"
        plot_results(path, [row for row in rows if row.dtype == dtype], plot_title(facts, dtype))
        names.append(path.name)
    console.print(f"  written to {output}: results.json, results.csv, {', '.join(names)}\n")


def plot_title(facts: dict[str, str], dtype: str) -> str:
    return f"fused-acts, {dtype}: {facts.get('gpu', facts['cpu'])}, torch {facts['torch']}"
