"""Runs one function of the tests in a process, and so in an environment, of its own."""

import os
import subprocess
import sys
from collections.abc import Callable

# The interpreter's end would abort the process now and then: autograd's threads, one a device, may
# still be letting go of Python's objects (https://github.com/pytorch/pytorch/issues/190489).
LEAVE = "import os, torch; torch.cuda.is_initialized() and os._exit(0)"


def run_alone(function: Callable[..., None], *arguments: object, **environment: str) -> None:
    """Fails if it fails. The arguments must be what their repr says."""
    module = function.__module__
    code = f"import {module}; {module}.{function.__name__}(*{arguments!r}); {LEAVE}"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=os.path.dirname(__file__),
        env={**os.environ, **environment},
        check=True,
        timeout=300,
    )
