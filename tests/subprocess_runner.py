"""Runs one function of the tests in a process, and so in an environment, of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn


def leave() -> NoReturn:
    """Ends a process whose work is done.

    The interpreter's own end would abort it now and then: threads of autograd and of process groups
    may still be letting go of Python's objects (https://github.com/pytorch/pytorch/issues/190489).
    """
    sys.stdout.flush()
    os._exit(0)


def run_alone(function: Callable[..., None], *arguments: object, **environment: str) -> None:
    """Fails if it fails. The arguments must be what their repr says."""
    module = function.__module__
    call = f"{module}.{function.__name__}(*{arguments!r})"
    code = f"import subprocess_runner, {module}; {call}; subprocess_runner.leave()"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=os.path.dirname(__file__),
        env={**os.environ, **environment},
        check=True,
        timeout=300,
    )
