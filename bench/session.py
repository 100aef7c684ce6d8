"""A series of measurements under one time limit, with a progress bar."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from .cases import Case
from .competitors import OURS, Competitor
from .measure import Failure, Measurement, Row, measure
from .timing import Clock

# Competitors for a case, and why others that are installed cannot take part, by package.
Build = Callable[[Case], tuple[Sequence[Competitor], dict[str, str]]]


@dataclass
class Session:
    """What the measurements have come to."""

    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was left out, and why

    @property
    def rows(self) -> list[Row]:
        return [row for measurement in self.measurements for row in measurement.rows()]

    @property
    def failures(self) -> list[Failure]:
        return [each for measurement in self.measurements for each in measurement.failures()]

    @property
    def ours_failed(self) -> bool:
        return any(failure.competitor == OURS for failure in self.failures)

    def all_notes(self) -> list[str]:
        """The notes, and each reason to fail once."""
        counts = Counter(f"{each.competitor} {each.reason}" for each in self.failures)
        return [*dict.fromkeys(self.notes), *(f"{text} (x{n})" for text, n in counts.items())]


def run_session(
    cases: Sequence[Case],
    build: Build,
    device: torch.device,
    *,
    clock: Clock,
    max_rounds: int,
) -> Session:
    """Shares the time that is left among the cases that are left; stops when there is none."""
    session = Session()
    late: list[Case] = []
    columns = (
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, expand=True, transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        pace = 1.0  # how much slower than expected setting up a case has been
        for index, case in enumerate(cases):
            progress.update(task, completed=index)
            if clock.left() < pace * least_seconds(case):
                late.append(case)
                continue

            def note(step: str, case: Case = case) -> None:
                progress.update(task, description=f"{case}: {step}")

            note("preparing")
            seconds = clock.left() * weight(case) / sum(map(weight, cases[index:]))
            start = clock.left()
            try:
                competitors, failures = build(case)
                measurement = measure(
                    case,
                    competitors,
                    device,
                    seconds=seconds,
                    clock=clock,
                    max_rounds=max_rounds,
                    note=note,
                )
            except KeyboardInterrupt:
                session.notes.append(f"stopped at: {case}")
                break
            except RuntimeError as problem:
                session.notes.append(f"left out: {case}: {str(problem).splitlines()[0]}")
                continue
            setup = start - clock.left() - measurement.timings.total_seconds
            pace = max(pace / 2, setup / least_seconds(case))
            session.measurements.append(measurement)
            session.notes += [f"{package}: {reason}" for package, reason in failures.items()]
    if late:
        names = "; ".join(map(str, late))
        session.notes.append(f"time was up before {len(late)} of {len(cases)} cases: {names}")
    return session


def weight(case: Case) -> float:
    """The share of the time that a case is given: a part for its setup, a part for its size."""
    return 0.5 + 6e-9 * case.traffic_bytes


def least_seconds(case: Case) -> float:
    """Setup, check and one round, which nothing can shorten, on a slow machine."""
    return 1 + 5e-9 * case.traffic_bytes
