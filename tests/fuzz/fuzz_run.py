"""python fuzz_run.py EXAMPLES SEED DEVICE [FILE]: draws cases and runs them; FILE gets the last.

SEED none: the same cases each time. A case that failed can be given to fuzz_check.run_case.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from fuzz_cases import Case, cases
from fuzz_check import run_case
from hypothesis import HealthCheck, given, seed, settings


def main(examples: int, chosen: str, device: str, file: str = os.devnull) -> None:
    torch.set_num_threads(2 if device == "cpu" else 1)
    counts: dict[str, int] = {}

    @settings(
        max_examples=examples,
        derandomize=chosen == "none",
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(large=device == "cpu"))
    def run(case: Case) -> None:
        Path(file).write_text(f"{case}\n")
        what = "refused" if case.mistake else f"{case.kind}, {case.mode}"
        counts[what] = counts.get(what, 0) + 1
        run_case(case, device)

    (run if chosen == "none" else seed(int(chosen))(run))()
    for what, count in sorted(counts.items()):
        print(f"{count:7d} {what}")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
