"""Tables in Markdown, and what stands between markers of a page."""

import re
from collections.abc import Iterator, Mapping, Sequence


def markdown(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for name, cells in rows.items():
        yield f"| {' | '.join([name, *cells])} |"


def write_block(text: str, name: str, lines: Sequence[str]) -> str:
    """The text with what stands between the markers of this name replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    return "\n".join([before + begin, "", *lines, "", end]) + rest.partition(end)[2]


def write_own_rows(text: str, cells_of_row: int) -> str:
    """The text with the first table's counts where a kernel stands beside those of others."""
    for name, cells in re.findall(r"^\| ([\w +]+) \| \d \| (.+) \|$", text, re.M):
        counts = re.sub(r" · \d+%", "", cells)
        row = rf"^(\| {re.escape(name)} \| fused-acts \|)([^|]*\|){{{cells_of_row}}}"
        text = re.sub(row, rf"\1 {counts} |", text, flags=re.M)
    return text
