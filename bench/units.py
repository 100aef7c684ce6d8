"""Times every gated unit, forward and forward with backward, from one token to many, against eager
and compiled PyTorch and the machine's own bandwidth. Fresh outputs; writes JSON and Markdown."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch

import fused_acts

from .bandwidth import Bandwidth, limit_source, measure_bandwidth
from .cases import DTYPES, Case, Model, fit
from .competitors import COMPILED, EAGER, OURS, Competitor, Form, build_competitors
from .machine import describe, free_memory
from .measure import Measurement, measure
from .timing import Clock

TOKENS = (1, 16, 256, 4096, 16384)
D_FF = 14336  # Llama-3 8B
# Those that most models have come first: a run whose time is up has lost the others.
COMMON = ("swiglu", "geglu_tanh", "geglu", "reglu", "glu")
VARIANTS = tuple(dict.fromkeys((*COMMON, *fused_acts.variants())))
NEEDED = 2.0  # seconds for the setup of a case, roughly


@dataclass(frozen=True)
class Unit:
    """One unit at one size, forward or forward with backward; medians over the rounds."""

    variant: str
    dtype: str
    tokens: int
    d_ff: int
    direction: str
    seconds: float
    ratio_to_eager: float
    ratio_to_compiled: float | None  # None where it was not measured
    share_of_bandwidth: float  # of two reads and a write of the same size, in the same rounds
    rounds: int


def make_unit(measurement: Measurement) -> Unit:
    case, timings = measurement.case, measurement.timings
    own, eager, compiled = ((name, "fresh") for name in (OURS, EAGER, COMPILED))
    if own not in timings.samples:
        raise RuntimeError(f"{OURS} {measurement.reasons[own]}")
    was_compiled = compiled in timings.samples
    return Unit(
        variant=case.model.variant,
        dtype=case.dtype_name,
        tokens=case.tokens,
        d_ff=case.model.d_ff,
        direction=case.direction,
        seconds=timings.seconds(own),
        ratio_to_eager=timings.ratio(own, eager),
        ratio_to_compiled=timings.ratio(own, compiled) if was_compiled else None,
        share_of_bandwidth=measurement.gb_per_s(own) / measurement.limit_gb_per_s(),
        rounds=len(timings.samples[own]),
    )


def contenders(form: Form, compiles: bool) -> list[Competitor]:
    """Ours, eager and compiled, with outputs of their own."""
    competitors, _ = build_competitors(form, "dynamic" if compiles else "off")
    names = (OURS, EAGER, COMPILED)
    return [replace(each, given=None) for each in competitors if each.name in names]


def make_cases(variant: str, dtype: str, args: argparse.Namespace) -> Iterator[Case]:
    memory = 0.8 * free_memory(args.device)
    model = Model("unit", args.d_ff, variant, "separate")
    for tokens in args.tokens:
        for backward in (False, True):
            case = Case(model, tokens, DTYPES[dtype], backward)
            if fit(case, memory) == case:
                yield case


def run_all(args: argparse.Namespace, units: list[Unit], notes: list[str]) -> Iterator[str]:
    """Adds to both; what was left out, and why, is a note. Yields a line about each unit."""
    clock = Clock(args.budget)
    pairs = [(variant, dtype) for dtype in args.dtypes for variant in args.variants]
    for done, (variant, dtype) in enumerate(pairs):
        form = Form(variant, "separate", DTYPES[dtype], args.device)
        cases = list(make_cases(variant, dtype, args))
        if len(cases) < 2 * len(args.tokens):
            notes.append(f"left out: {variant} {dtype}: sizes for which there is no memory")
        competitors = contenders(form, not args.no_compile)
        for index, case in enumerate(cases):
            left = clock.left() / ((len(pairs) - done) * len(cases) - index)
            if clock.left() < NEEDED:
                notes.append(f"left out: {case}: time was up")
                continue
            try:
                measurement = measure(
                    case,
                    competitors,
                    args.device,
                    seconds=min(left / 2, args.seconds),
                    clock=clock,
                    max_rounds=args.rounds,
                )
                units.append(make_unit(measurement))
            except RuntimeError as problem:  # one that breaks must not end the run
                notes.append(f"failed: {case}: {str(problem).splitlines()[0]}")
                continue
            notes += [f"{case}: {name} {why}" for (name, _), why in measurement.reasons.items()]
        times = [unit for unit in units if (unit.variant, unit.dtype) == (variant, dtype)]
        yield f"{variant} {dtype}: {len(times)} of {len(cases)} cases"


def markdown(units: Sequence[Unit]) -> str:
    """A table a direction and dtype: time, relative to eager and compiled, share of bandwidth."""
    lines: list[str] = []
    for direction, dtype in dict.fromkeys((unit.direction, unit.dtype) for unit in units):
        group = [u for u in units if (u.direction, u.dtype) == (direction, dtype)]
        tokens = sorted({unit.tokens for unit in group})
        lines += [
            f"{direction}, {dtype}, {group[0].d_ff} columns: microseconds; relative to eager; to "
            "`torch.compile`; share of bandwidth",
            "",
            f"| tokens | {' | '.join(map(str, tokens))} |",
            "|---" * (1 + len(tokens)) + "|",
        ]
        for variant in dict.fromkeys(unit.variant for unit in group):
            by_tokens = {unit.tokens: cell(unit) for unit in group if unit.variant == variant}
            cells = (by_tokens.get(count, "-") for count in tokens)
            lines.append(f"| {variant} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def cell(unit: Unit) -> str:
    ratios = (unit.ratio_to_eager, unit.ratio_to_compiled)
    eager, compiled = ("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
    return f"{1e6 * unit.seconds:.3g}; {eager}; {compiled}; {unit.share_of_bandwidth:.0%}"


def bandwidth_line(bandwidths: Sequence[Bandwidth], source: str) -> str:
    sizes = (
        f"{each.tensor_bytes / 2**20:g} MiB: {each.copy_gb_per_s:.0f} and {each.mix_gb_per_s:.0f}"
        for each in bandwidths
    )
    return f"GB/s of a copy, and of two reads and a write ({source}): {'; '.join(sizes)}."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--variants", nargs="+", choices=VARIANTS, metavar="NAME", default=VARIANTS)
    option("--tokens", nargs="+", type=int, default=TOKENS, metavar="N")
    option("--d-ff", type=int, default=D_FF, metavar="N")
    option("--dtypes", nargs="+", choices=DTYPES, default=["bf16"])
    option("--budget", type=float, default=300, metavar="S", help="seconds for all (300)")
    option("--seconds", type=float, default=0.2, metavar="S", help="at most for each case (0.2)")
    option("--rounds", type=int, default=50, metavar="N", help="at most for each case (50)")
    option("--no-compile", action="store_true", help="without torch.compile")


def main(args: argparse.Namespace) -> int:
    torch.manual_seed(args.seed)
    facts = describe(args.device)
    bandwidths = measure_bandwidth(args.device, 0.8 * free_memory(args.device))
    units: list[Unit] = []
    notes: list[str] = []
    head = f"{facts.get('gpu', facts['cpu'])}, torch {facts['torch']}, {facts['date'][:10]}."
    head += "\n" + bandwidth_line(bandwidths, limit_source(args.device))
    content = {
        "machine": facts,
        "bandwidth": [asdict(each) for each in bandwidths],
        "notes": notes,
    }
    for line in run_all(args, units, notes):
        print(line, flush=True)
        # Each time: a run that is stopped has left what it had.
        content["units"] = [asdict(unit) for unit in units]
        (args.output / "units.json").write_text(json.dumps(content, indent=1) + "\n")
        (args.output / "units.md").write_text(f"{head}\n\n{markdown(units)}")
    print(*notes, f"written to {args.output}: units.json, units.md", sep="\n")
    return int(not units or any(note.startswith("failed: ") for note in notes))
