"""Runs compilers, several at once, and says how far they are."""

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple


class Command(NamedTuple):
    name: str  # of the file
    words: tuple[str, ...]


class Failed(NamedTuple):
    command: Command
    said: str


class Output:
    """What is shown on stderr. verbose: None a line a file, True all there is, False nothing."""

    def __init__(self, name: str, verbose: bool | None) -> None:
        self.name, self.verbose, self.start = name, verbose, time.perf_counter()

    def line(self, text: str) -> None:
        if self.verbose is not False:
            print(f"fused_acts.define {self.name}: {text}", file=sys.stderr, flush=True)

    def started(self, command: Command) -> None:
        if self.verbose:
            print(shlex.join(command.words), file=sys.stderr, flush=True)

    def ended(self, command: Command, said: str, number: int, count: int) -> None:
        seconds = time.perf_counter() - self.start
        self.line(f"[{number}/{count}, {seconds:.0f} s] {command.name}")
        if self.verbose and said:
            print(said, file=sys.stderr, flush=True)


def environment() -> dict[str, str]:
    """In which a compiler says what it says in English."""
    return os.environ | {"LC_ALL": "C"}


def job_count() -> int:
    asked = os.environ.get("MAX_JOBS", "")
    if asked.isdigit():
        return max(int(asked), 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(commands: Sequence[Command], last: Command, output: Output) -> Failed | None:
    """Runs them all, and then the last; or until one fails, which ends the others."""
    running: set[subprocess.Popen[str]] = set()
    lock = threading.Lock()
    failed: list[Failed] = []
    done = 0

    def run(command: Command) -> None:
        nonlocal done
        with lock:
            if failed:
                return
            output.started(command)
            process = subprocess.Popen(
                command.words,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment(),
            )
            running.add(process)
        said = process.communicate()[0]
        with lock:
            running.discard(process)
            if process.returncode and not failed:
                failed.append(Failed(command, said))
                stop()
            elif not process.returncode:
                done += 1
                output.ended(command, said, done, len(commands) + 1)

    def stop() -> None:
        for process in running:
            process.terminate()

    with ThreadPoolExecutor(job_count()) as pool:
        try:
            list(pool.map(run, commands))
            run(last)
        except BaseException:
            with lock:
                failed.append(Failed(commands[0], "interrupted"))
                stop()
            raise
    return failed[0] if failed else None
