"""Measures the numbers this library has set itself on the CPU (x86-64 with AVX-512, 2 threads) and
prints target against result: time relative to eager with a fresh output, and share of bandwidth."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from . import report
from .bandwidth import limit_source
from .cases import Case, Model
from .competitors import COMPILED, EAGER, OURS, Competitor, Form, build_competitors
from .machine import busy, describe
from .measure import BASE, Measurement
from .session import run_session
from .timing import Clock, Label

D_FF = 14336  # Llama-3 8B
BANDWIDTH = "bandwidth"
BF16, FP32 = torch.bfloat16, torch.float32
LARGE = 4096  # tokens, where operands are in memory


@dataclass(frozen=True)
class Target:
    """Time of ours over time of `against` is to be at most this."""

    case: Case
    output: str  # of ours; eager and torch.compile always get a fresh one
    against: str
    at_most: float


@dataclass(frozen=True)
class Outcome:
    """A line of the results; a share of bandwidth is a ratio of times as well."""

    variant: str
    layout: str
    dtype: str
    tokens: int
    direction: str
    output: str
    against: str
    at_most: float
    measured: float

    @property
    def met(self) -> bool:
        return self.measured <= self.at_most


def make_case(
    variant: str, dtype: torch.dtype, tokens: int, backward: bool = False, layout: str = "separate"
) -> Case:
    return Case(Model("Llama-3 8B", D_FF, variant, layout), tokens, dtype, backward)


def forward_targets(variant: str, layout: str = "separate") -> Iterator[Target]:
    """Ours writes into an output it is given; at LARGE also into a fresh one."""
    small = {
        "geglu_tanh": {BF16: 0.22, FP32: 0.22},
        "geglu": {BF16: 0.6, FP32: 0.3},
    }.get(variant, {BF16: 0.4, FP32: 0.4})
    for dtype, at_most in small.items():
        by_tokens = {16: at_most, 256: at_most, LARGE: at_most}
        if variant in ("swiglu", "glu"):
            by_tokens |= {1: 0.7, LARGE: 0.12}
        for tokens, limit in sorted(by_tokens.items()):
            yield Target(make_case(variant, dtype, tokens, False, layout), "given", EAGER, limit)
        large = make_case(variant, dtype, LARGE, False, layout)
        yield Target(large, "given", BANDWIDTH, 1 / 0.9)
        yield Target(large, "fresh", EAGER, 0.4)
        yield Target(large, "fresh", COMPILED, 0.7)


def backward_targets(variant: str, layout: str = "separate") -> Iterator[Target]:
    """Forward and backward through autograd."""
    small = {
        "swiglu": {BF16: 0.5, FP32: 0.35},
        "geglu_tanh": {BF16: 0.32, FP32: 0.32},
        "geglu": {BF16: 0.6, FP32: 0.6},
    }[variant]
    for dtype, at_most in small.items():
        for tokens, limit in ((256, at_most), (LARGE, 0.35)):
            yield Target(make_case(variant, dtype, tokens, True, layout), "fresh", EAGER, limit)


def all_targets() -> Iterator[Target]:
    for variant in ("swiglu", "glu", "geglu_tanh", "geglu", "reglu", "bilinear"):
        yield from forward_targets(variant)
    for variant in ("swiglu", "geglu_tanh", "geglu"):
        yield from backward_targets(variant)
    yield from forward_targets("swiglu", "gate_up")  # packed inputs: the same or better
    yield from backward_targets("swiglu", "gate_up")


def competitors_for(case: Case, device: torch.device) -> tuple[list[Competitor], dict[str, str]]:
    """Ours, eager, and torch.compile where a target names it; outputs are given to ours alone."""
    mode = "static" if case.tokens == LARGE and not case.backward else "off"
    form = Form(case.model.variant, case.model.layout, case.dtype, device)
    competitors, failures = build_competitors(form, mode)
    wanted = [each for each in competitors if each.name in (OURS, EAGER, COMPILED)]
    return [each if each.name == OURS else replace(each, given=None) for each in wanted], failures


def evaluate(target: Target, measurement: Measurement) -> Outcome | None:
    """None where a contender failed."""
    against: dict[str, Label] = {
        EAGER: BASE,
        COMPILED: (COMPILED, "fresh"),
        BANDWIDTH: measurement.limit,
    }
    ours, other = (OURS, target.output), against[target.against]
    if not {ours, other} <= measurement.timings.samples.keys():
        return None
    case = target.case
    return Outcome(
        variant=case.model.variant,
        layout=case.model.layout,
        dtype=case.dtype_name,
        tokens=case.tokens,
        direction=case.direction,
        output=target.output,
        against=target.against,
        at_most=target.at_most,
        measured=measurement.timings.ratio(ours, other),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with TEXT, e.g. swiglu")
    parser.add_argument("--budget", type=float, default=600, metavar="S", help="seconds (600)")
    parser.add_argument("--rounds", type=int, default=25, metavar="N", help="most rounds a case")


def main(args: argparse.Namespace) -> int:
    if args.threads is None:
        torch.set_num_threads(2)
    console = report.make_console()
    facts = describe(args.device)
    console.print(report.machine_table(facts))
    if busy():
        console.print("  The machine is busy: expect noise.\n", style="red")
    targets = [target for target in all_targets() if args.only in str(target.case)]
    session = run_session(
        list(dict.fromkeys(target.case for target in targets)),
        partial(competitors_for, device=args.device),
        args.device,
        clock=Clock(args.budget),
        max_rounds=args.rounds,
    )
    measured = {each.case: each for each in session.measurements}
    evaluated = [evaluate(t, measured[t.case]) for t in targets if t.case in measured]
    outcomes = [outcome for outcome in evaluated if outcome is not None]
    met = sum(outcome.met for outcome in outcomes)
    table = report.plain_table(
        f"Targets, d_ff {D_FF}",
        (
            "variant",
            "input",
            "dtype",
            "pass",
            "output",
            "against",
            "tokens",
            "target",
            "measured",
            "",
        ),
        left=6,
        caption=f"bandwidth: 2 reads, 1 write; {limit_source(args.device)}",
    )
    for outcome in outcomes:
        table.add_row(*outcome_cells(outcome), style="" if outcome.met else "red")
    console.print(table)
    for note in session.all_notes():
        console.print(f"  {note}", style="yellow")
    console.print(f"  {met} of {len(targets)} targets met, {len(outcomes)} measured")
    if outcomes:
        report.write_csv(args.output / "targets.csv", outcomes)
        console.print(f"  written to {args.output}: targets.csv")
    return int(met < len(targets))


def outcome_cells(outcome: Outcome) -> list[str]:
    share = outcome.against == BANDWIDTH
    return [
        outcome.variant,
        outcome.layout,
        outcome.dtype,
        outcome.direction.replace("forward+backward", "fwd + bwd"),
        outcome.output,
        outcome.against,
        str(outcome.tokens),
        f">= {1 / outcome.at_most:.0%}" if share else f"<= {outcome.at_most:.2f}x",
        f"{1 / outcome.measured:.0%}" if share else f"{outcome.measured:.3f}x",
        "met" if outcome.met else "missed",
    ]
