"""Runs mypy --strict and pyright on tests/types/usage.py, and fails where they miss an error that
is marked there, or find another."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USAGE = ROOT / "tests" / "types" / "usage.py"


def output(*command: str) -> str:
    python = [sys.executable, "-m"]
    return subprocess.run([*python, *command], cwd=ROOT, capture_output=True, text=True).stdout


def of_mypy() -> dict[int, str]:
    # Apart from the settings of the project, which are for its own files.
    text = output("mypy", "--strict", "--config-file=", "--follow-imports=silent", str(USAGE))
    return {int(line): said for line, said in re.findall(r"usage\.py:(\d+): error: (.*)", text)}


def of_pyright() -> dict[int, str]:
    found = json.loads(
        output("pyright", "--outputjson", "--pythonpath", sys.executable, str(USAGE))
    )["generalDiagnostics"]
    return {d["range"]["start"]["line"] + 1: d["message"] for d in found}


def main() -> None:
    lines = USAGE.read_text().splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    failed = False
    for name, found in (("mypy", of_mypy()), ("pyright", of_pyright())):
        for number in sorted(expected ^ found.keys()):
            failed = True
            said = found.get(number, "expected an error here")
            print(f"{USAGE.relative_to(ROOT)}:{number}: {name}: {said}")
        print(f"{name}: {len(expected & found.keys())} of {len(expected)} errors found")
    sys.exit(failed)


if __name__ == "__main__":
    main()
