"""Installs a wheel for each of several Pythons, and runs a short list of tests with it.

    python tools/try_wheel.py dist/fused_acts-*.whl PYTHON...

Each PYTHON has a torch, numpy, pytest and expecttest; nothing is written to its environment.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
# Values, gradients, errors, all operators, the tables.
NAMES = ("test_values", "test_gradients", "test_errors", "test_operators", "test_table")
DESCRIBE = """
import platform, torch, fused_acts
print(fused_acts.__file__)
print(f"Python {platform.python_version()}, torch {torch.__version__}")
"""


def output(*command: object, **options) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-5000:]}")
    return done.stdout.strip()


def try_with(python: str, wheel: Path) -> str:
    """What was tried, and pytest's last line."""
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder, "site")  # before the packages of the Python, which may hold another
        output(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
        elsewhere = {"cwd": folder, "env": os.environ | {"PYTHONPATH": str(site)}}
        loaded, description = output(python, "-c", DESCRIBE, **elsewhere).splitlines()[-2:]
        if not loaded.startswith(str(site)):
            sys.exit(f"{python}: {loaded} was imported, not the wheel")
        tests = [TESTS / f"{name}.py" for name in NAMES]
        pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        report = output(*pytest, "-m", "not cuda and not slow", *tests, **elsewhere)
        return f"{description}: {report.splitlines()[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("python", nargs="+", help="an interpreter with torch and pytest")
    arguments = parser.parse_args()
    for name in arguments.python:
        python = shutil.which(name) or sys.exit(f"{name}: no such interpreter")
        print(try_with(str(Path(python).absolute()), arguments.wheel.resolve()), flush=True)


if __name__ == "__main__":
    main()
