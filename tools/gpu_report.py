"""What tools/gpu_check.sh has found: python tools/gpu_report.py WORK OUT

WORK/parts has NAME.log, NAME.status and NAME.seconds of each part, WORK/units what `python -m bench
units` wrote. Writes OUT/gpu_check.json, .md and .log, prints a line a part; the exit status is 1 if
one of them failed or none passed.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PASSED, FAILED, CUT, LEFT_OUT = "passed", "failed", "cut short", "left out"
NOT_STARTED = "-"
TIME_WAS_UP = ("124", "137")  # of timeout(1)
NO_TESTS = "5"  # of pytest
# The line of a log that sums it up, the last of the first pattern that is there.
SUMMARIES = (
    r"=+ ERROR SUMMARY: .*",
    r"\d+ (?:passed|failed|errors?)\b.* in [\d.]+s.*",
    r"cuda:\d.* calls with gradients, .*",
    r"GPU 0: .*",
    r"Successfully installed .*",
)
# Each of these is no fault of what is tested, whatever the exit status.
LACKING = (
    r"ModuleNotFoundError: No module named '(?!fused_acts)[\w.]+'",
    r"Device not supported",  # compute-sanitizer, of some virtual machines
)


@dataclass(frozen=True)
class Part:
    name: str
    verdict: str
    seconds: int
    note: str


def read_parts(folder: Path) -> Iterator[tuple[Part, str]]:
    """Each with its log, in the order in which they ended."""
    statuses = sorted(folder.glob("*.status"), key=lambda path: path.stat().st_mtime_ns)
    for path in statuses:
        status = path.read_text().strip()
        log = path.with_suffix(".log").read_text(errors="replace")
        seconds = path.with_suffix(".seconds")
        if not (path.stem.startswith("test_") and status == NO_TESTS):
            taken = int(seconds.read_text()) if seconds.exists() else 0
            yield Part(path.stem, *judge(path.stem, status, log, taken)), log


def judge(name: str, status: str, log: str, seconds: int) -> tuple[str, int, str]:
    """(verdict, seconds, note)"""
    summary = next((found[-1] for p in SUMMARIES if (found := re.findall(p, log))), "").strip("= ")
    if status == "0":
        return PASSED, seconds, summary
    if status == NOT_STARTED:
        return LEFT_OUT, seconds, log.strip()
    ran = re.search(r"\d+ (passed|failed)", summary)
    lacking = next((found[0] for p in LACKING if (found := re.search(p, log))), None)
    if lacking and not ran:
        return LEFT_OUT, seconds, lacking
    if status in TIME_WAS_UP and name != "build" and " failed" not in summary:
        return CUT, seconds, summary or "time was up"
    return FAILED, seconds, summary or last_line(log)


def last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def markdown(parts: list[Part], table: str) -> str:
    lines = ["| part | | seconds | |", "|---|---|---|---|"]
    lines += [f"| {each.name} | {each.verdict} | {each.seconds} | {each.note} |" for each in parts]
    return "\n".join([table, *lines, ""])


def main() -> int:
    work, out = map(Path, sys.argv[1:])
    parts, logs = [], []
    for part, log in read_parts(work / "parts"):
        parts.append(part)
        logs.append(f"=== {part.name}: {part.verdict}\n{log}\n")
    units = work / "units"
    found = json.loads((units / "units.json").read_text()) if units.is_dir() else {}
    table = (units / "units.md").read_text() if found else ""
    content = {"parts": [asdict(part) for part in parts], **found}
    (out / "gpu_check.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "gpu_check.md").write_text(markdown(parts, table))
    (out / "gpu_check.log").write_text("".join(logs))
    print()
    for part in parts:
        print(f"{part.name:<28} {part.verdict:<9} {part.seconds:4d} s  {part.note}")
    counts = (f"{sum(p.verdict == v for p in parts)} {v}" for v in (PASSED, FAILED, CUT, LEFT_OUT))
    print(f"{', '.join(counts)}; written to {out}: gpu_check.json, gpu_check.md, gpu_check.log")
    verdicts = {part.verdict for part in parts}
    return int(FAILED in verdicts or PASSED not in verdicts)


if __name__ == "__main__":
    sys.exit(main())
