"""Reads and writes the table of docs/support.md."""

import re
from collections.abc import Iterable
from pathlib import Path

from support_cases import COLUMNS, LINES, has

PAGE = Path(__file__).resolve().parent.parent / "docs" / "support.md"
DEVICES = ("cpu", "cuda")
Place = tuple[str, str, str]  # line, device, column


def read() -> dict[Place, str]:
    """What the cells say."""
    header, *lines = re.findall(r"^\|(.*)\|$", PAGE.read_text(), re.M)
    titles = [title.strip() for title in header.split("|")][2:]
    cells = {}
    for line in lines[1:]:
        name, device, *said = (cell.strip() for cell in line.split("|"))
        for title, cell in zip(titles, said, strict=True):
            cells[name, device.lower(), title] = cell
    return cells


def write(passed: Iterable[str], failed: Iterable[str]) -> None:
    """Writes the cells of tests of test_support.py, named as pytest does; others stay."""
    cells = read()
    for names, said in ((passed, "yes"), (failed, "no")):
        found = (re.search(r"::test_cell\[(\w+)-(cpu|cuda)-([\w. ]+)\]", name) for name in names)
        cells |= {match.groups(): said for match in found if match}
    lines = [f"| | device | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for name, line in LINES.items():
        for device in DEVICES:
            said = [
                cells.get((name, device, title), "") if has(line, column) else "-"
                for title, column in COLUMNS.items()
            ]
            lines.append(f"| {name} | {device.upper()} | {' | '.join(said)} |")
    head = PAGE.read_text().split("\n|", 1)[0]
    PAGE.write_text("\n".join((head, *lines)) + "\n")
