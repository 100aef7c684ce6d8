"""A virtual environment a competitor, made once under .venvs/ of the checkout.

It sees the packages of the Python that runs the bench, torch above all, so that all competitors run
with the same torch and none is downloaded twice; pip adds the competitor's own.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venvs"


class NotInstalled(Exception):
    """And the reason."""


def parent_packages() -> list[str]:
    return [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def ready_python(name: str, packages: Sequence[str], log: Path, limit: float) -> str:
    """The Python of the competitor's environment, which is made if it is not there.

    log: what pip says. Raises NotInstalled, also where pip takes more than `limit` seconds.
    """
    if not packages:
        return sys.executable
    folder = FOLDER / f"field-{slug(name)}"
    python, done = folder / "bin" / "python", folder / "installed.txt"
    # Anew where another Python, torch or version is asked for.
    asked = "\n".join([*packages, *parent_packages()])
    if done.exists() and done.read_text() == asked:
        return str(python)
    with log.open("w") as output:
        run([sys.executable, "-m", "venv", "--clear", str(folder)], output, limit, log)
        purelib = next(folder.glob("lib/python*/site-packages"))
        (purelib / "of_the_bench.pth").write_text("\n".join(parent_packages()) + "\n")
        run([str(python), "-m", "pip", "install", *packages], output, limit, log)
    done.write_text(asked)
    return str(python)


def run(command: list[str], output: IO[str], limit: float, log: Path) -> None:
    """In a session of its own, for pip has compilers to end with it."""
    with subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True) as process:
        try:
            failed = process.wait(limit)
        except BaseException as problem:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(problem, subprocess.TimeoutExpired):
                raise NotInstalled(f"not within {limit:.0f} seconds") from None
            raise
    if failed:
        raise NotInstalled(reason(log.read_text()))


def reason(said: str) -> str:
    """The first line of pip's that is an error, else its last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no output"]
    errors = [line for line in lines if line.lower().startswith("error:")]
    return (errors or lines[-1:])[0].removeprefix("ERROR: ")[:160]
