"""Checks every competitor against a float64 oracle, times them on the feed-forward shapes of real
models and trains a small classifier on handwritten digits. Prints tables, writes JSON, CSV, PNG."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

import fused_acts

from . import report
from .bandwidth import Bandwidth, limit_source, measure_bandwidth
from .cases import DTYPES, LAYOUTS, MODELS, TOKENS, Case, build_cases
from .competitors import Competitor, Form, build_competitors, missing_peers
from .digits import run_digits
from .machine import busy, describe, free_memory
from .plots import plot_results
from .session import Session, run_session
from .timing import Clock

READING = """How to read it: "fresh" allocates the output, "given" writes into a preallocated one.
"% limit" is the share of the machine's own 2-read-1-write bandwidth on tensors of the same size,
measured in the same rounds. "vs eager" is time relative to eager with a fresh output. On a CPU a
large fresh output costs more in page faults than in arithmetic.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("less or more")
    option = group.add_argument
    option("--quick", action="store_true", help="about a minute: few cases, few rounds")
    option("--budget", type=float, metavar="S", help="seconds for the whole run (420; quick: 60)")
    option("--rounds", type=int, metavar="N", help="most rounds a case (25; quick: 7)")
    option("--models", nargs="+", metavar="NAME", help="those with NAME in their name: llama t5")
    option("--tokens", nargs="+", type=int, metavar="N", help="(1 16 256 4096; quick: 1 256)")
    option("--dtypes", nargs="+", choices=DTYPES, default=["bf16"], help="(bf16)")
    option(
        "--variants",
        nargs="+",
        choices=["own", "all", *fused_acts.variants()],
        default=["own"],
        metavar="NAME",
        help="instead of each model's own: all, or some of " + " ".join(fused_acts.variants()),
    )
    option("--layout", choices=LAYOUTS, help="instead of each model's own")
    option("--passes", nargs="+", choices=["forward", "both"], default=["forward", "both"])
    option(
        "--compile",
        choices=["dynamic", "static", "off"],
        default="dynamic",
        help="torch.compile once for all sizes (the default), for each size, or not at all",
    )
    option("--no-digits", action="store_true", help="without the training on digits")


def main(args: argparse.Namespace) -> int:
    clock = Clock(args.budget or (60 if args.quick else 420))
    console = report.make_console()
    memory = 0.8 * free_memory(args.device)
    cases = choose_cases(args, memory)
    facts = describe(args.device)
    console.print(report.machine_table(facts))
    if busy():
        console.print(
            "  The machine is busy: expect noise, most of all in small cases.", style="red"
        )
    bandwidths = measure_bandwidth(args.device, memory)
    console.print(report.bandwidth_table(bandwidths, limit_source(args.device)))
    if missing := missing_peers():
        console.print(f"  not installed: {', '.join(missing)}\n")

    epochs = 10 if args.quick else 30
    session = run_session(
        cases,
        partial(competitors_for, device=args.device, compile_mode=args.compile),
        args.device,
        clock=Clock(clock.left() - (0 if args.no_digits else epochs)),  # a second each at worst
        max_rounds=args.rounds or (7 if args.quick else 25),
    )
    order = list(dict.fromkeys(case.model for case in sorted(cases, key=model_order)))
    session.measurements.sort(key=lambda each: order.index(each.case.model))
    print_results(console, session)
    if session.measurements:
        write_files(args.output, console, facts, bandwidths, session)
    if not args.no_digits:
        run_digits(console, args.output, args.device, "swiglu", epochs, args.seed, clock)
    return int(session.ours_failed or not session.measurements)


def choose_cases(args: argparse.Namespace, memory: float) -> list[Case]:
    names = [name.lower() for name in args.models or ()]
    if args.quick and not names:
        names = ["llama-3 8b", "gemma"]
    models = [
        replace(
            model,
            variant=model.variant if variant == "own" else variant,
            layout=args.layout or model.layout,
        )
        for model in MODELS
        if not names or any(name in model.name.lower() for name in names)
        for variant in (fused_acts.variants() if "all" in args.variants else args.variants)
    ]
    if not models:
        known = ", ".join(model.name for model in MODELS)
        raise SystemExit(f"--models: got {' '.join(args.models)}, expected parts of {known}")
    tokens = args.tokens or ((1, 256) if args.quick else TOKENS)
    backward = [direction == "both" for direction in args.passes]
    return build_cases(models, tokens, [DTYPES[name] for name in args.dtypes], backward, memory)


def model_order(case: Case) -> int:
    return [model.name for model in MODELS].index(case.model.name)


def competitors_for(
    case: Case, device: torch.device, compile_mode: str
) -> tuple[list[Competitor], dict[str, str]]:
    form = Form(case.model.variant, case.model.layout, case.dtype, device)
    return build_competitors(form, compile_mode)


def print_results(console: Console, session: Session) -> None:
    rows = session.rows
    if rows:
        console.print(READING, style="italic")
    for table in report.result_tables([*rows, *session.failures]):
        console.print(table)
    for note in session.all_notes():
        console.print(f"  {note}", style="yellow")
    if rows:
        console.print(report.accuracy_table(rows))
        console.print(report.summary_table(rows))


def write_files(
    output: Path,
    console: Console,
    facts: Mapping[str, str],
    bandwidths: Sequence[Bandwidth],
    session: Session,
) -> None:
    rows = session.rows
    report.write_csv(output / "results.csv", rows)
    content = {
        "machine": facts,
        "bandwidth": [asdict(each) for each in bandwidths],
        "notes": session.all_notes(),
        "results": [asdict(row) for row in rows],
    }
    report.write_json(output / "results.json", content)
    names = ["results.json", "results.csv"]
    for dtype in dict.fromkeys(row.dtype for row in rows):
        names.append(f"results-{dtype}.png")
        title = f"{dtype}: {facts.get('gpu', facts['cpu'])}, torch {facts['torch']}"
        plot_results(output / names[-1], [row for row in rows if row.dtype == dtype], title)
    console.print(f"  written to {output}: {', '.join(names)}\n")
