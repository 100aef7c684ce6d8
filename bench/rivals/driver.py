"""Starts the competitors' processes and asks each in turn, in random order, round by round."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from torch import Tensor

from ..timing import Clock, Label, Timings, interleave
from .check import Oracle
from .environments import FOLDER, ROOT, NotInstalled, ready_python, slug
from .table import ADAPTERS, EAGER
from .units import Case, Pool
from .worker import receive, send

# The package is looked for in the checkout last, so that an installed fused-acts is found first.
START = f"import sys; sys.path.append({str(ROOT)!r}); from bench.rivals import worker; "
START += "worker.main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
GAP_SECONDS = 5e-3  # between two, so that the threads of one no longer wait for work by spinning
DEATHS = 3  # after which a competitor is out


class Gone(Exception):
    """(name, reason): a competitor's process ended, took too long or failed while it was timed."""


@dataclass
class Competitor:
    """Started when it is first asked, and again after it died."""

    name: str
    python: str
    log: Path
    threads: int
    limit: float  # seconds for an answer
    version: str = ""
    deaths: int = 0
    process: subprocess.Popen[bytes] | None = None
    connection: Connection | None = None

    def start(self) -> None:
        own, other = Pipe()
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(FOLDER / "field-compiled")}
        threads = {"OMP_NUM_THREADS": str(self.threads)}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [self.python, "-c", START, self.name, str(other.fileno()), str(self.threads)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[other.fileno()],
                env=os.environ | caches | threads,
            )
        other.close()
        self.connection = own
        self.version = self.receive()["version"]

    def receive(self) -> Any:
        assert self.connection is not None
        try:
            if self.connection.poll(self.limit):
                return receive(self.connection)
            reason = f"no answer within {self.limit:.0f} seconds"
        except (EOFError, OSError):
            reason = f"its process ended: {last_line(self.log)}"
        self.deaths += 1
        self.stop()
        raise Gone(self.name, reason)

    def ask(self, question: str, *arguments: Any) -> Any:
        """The worker's method of that name; an error there is an answer with the key `error`."""
        if self.deaths >= DEATHS:
            raise Gone(self.name, f"it died {DEATHS} times")
        if self.process is None:
            self.start()
        assert self.connection is not None
        with suppress(OSError):  # there is no answer then
            send(self.connection, (question, *arguments))
        return self.receive()

    def stop(self) -> None:
        if self.connection is not None:
            self.connection.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = self.connection = None


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


@dataclass
class Field:
    """Those that take part, and why others do not."""

    competitors: list[Competitor] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    failures: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by name and dtype
    lacking: set[tuple[str, str, str, bool]] = field(default_factory=set)  # not to be asked again

    def ask(self, one: Competitor, case: Case, question: str, *arguments: Any) -> Any:
        """The answer; None, and a failure noted, where there is none."""
        try:
            answer = one.ask(question, *arguments)
        except Gone as problem:
            answer = {"error": problem.args[1]}
        if isinstance(answer, dict) and "error" in answer:
            self.note(one, case, answer["error"])
            return None
        return answer

    def note(self, one: Competitor, case: Case, reason: str) -> None:
        self.lacking.add(key(one, case))
        reason = f"{case}: {' '.join(reason.split())[:160]}"
        self.failures.setdefault((one.name, case.dtype), []).append(reason)

    def notes(self) -> Iterator[str]:
        """A line for each that is not there, and for each dtype that one has failed at."""
        for name, why in self.absent.items():
            yield f"{name}: {why}"
        for (name, dtype), reasons in self.failures.items():
            more = f" ({len(reasons) - 1} more)" if len(reasons) > 1 else ""
            yield f"{name}, {dtype}: {reasons[0]}{more}"

    def stop(self) -> None:
        for each in self.competitors:
            each.stop()


def key(one: Competitor, case: Case) -> tuple[str, str, str, bool]:
    return one.name, case.unit, case.dtype, case.backward


def assemble(
    names: Sequence[str], output: Path, threads: int, limit: float, say: Callable[[str], None]
) -> Field:
    """Makes the environments that are lacking and starts everyone once."""
    result = Field()
    for name in names:
        log = output / f"field-{slug(name)}.log"
        packages = ADAPTERS[name].packages
        start = time.monotonic()
        try:
            python = ready_python(name, packages, output / f"pip-{slug(name)}.log", 30 * limit)
        except NotInstalled as problem:
            result.absent[name] = f"not installed: {problem}"
            say(f"{name}: {result.absent[name]}")
            continue
        log.write_bytes(b"")
        one = Competitor(name, python, log, threads, limit)
        try:
            one.start()
        except Gone as problem:
            result.absent[name] = f"does not start: {problem.args[1]}"
            say(f"{name}: {result.absent[name]}")
            continue
        say(f"{name}: {one.version} ({time.monotonic() - start:.0f} s)")
        result.competitors.append(one)
    return result


def measure(field: Field, case: Case, pool: Pool, seconds: float, rounds: int) -> Timings | None:
    """Of those whose results are right; None where eager is not among them."""
    ready: dict[Label, Competitor] = {}
    oracle = Oracle(case, pool)
    for one in field.competitors:
        if key(one, case) in field.lacking:
            continue
        answer = field.ask(one, case, "prepare", case, pool)
        if not answer:
            continue
        if "lacks" in answer:
            field.lacking.add(key(one, case))
            continue
        problem = oracle.fault(answer["sample"])
        if problem:
            field.note(one, case, f"wrong: {problem}")
        else:
            ready[one.name, "fresh"] = one
    while (EAGER, "fresh") in ready:
        samplers = {label: Sampler(one) for label, one in ready.items()}
        try:
            return interleave(samplers, seconds, Clock(3 * seconds + 60), rounds)
        except Gone as problem:  # the others once more, without it
            name, reason = problem.args
            field.note(ready.pop((name, "fresh")), case, reason)
    return None


@dataclass(frozen=True)
class Sampler:
    competitor: Competitor

    def __call__(self) -> float:
        time.sleep(GAP_SECONDS)
        answer = self.competitor.ask("time")
        if isinstance(answer, dict):
            raise Gone(self.competitor.name, answer["error"])
        return float(answer)


def values(field: Field, one: Competitor, case: Case, tensors: Sequence[Tensor]) -> Tensor | None:
    """The case's unit of these operands; None where the competitor has no such thing."""
    result: Tensor | None = field.ask(one, case, "values", case.unit, list(tensors))
    return result
