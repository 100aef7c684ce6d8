"""The page: a table of all at a glance, and a section for each entry."""

import re
from collections.abc import Mapping, Sequence

from fused_acts.gallery.entry import Entry
from fused_acts.gallery.figures import Extreme, Figures, Interval, figures, number
from fused_acts.gallery.formulas import OF_SEVERAL, derivatives
from fused_acts.tables import ROWS

Gallery = dict[Entry, Figures]

FOLDER = "activations"  # of the pictures, beside the page

HEAD = """\
# Activations

Written by `python -m fused_acts gallery`: every number and curve on this page comes from the
library's own forward and backward pass in float64. Some of it, or other parameters:
`python -m fused_acts gallery swish --beta 1.7 --out FOLDER`, after
`pip install 'fused-acts[gallery]'`.

- *Largest* and *smallest derivative*: over all numbers, with the place; "as x -> inf" is
  approached there and not reached.
- *Zero-centred*: f(0) = 0 with outputs of both signs around it; *odd*: f(-x) = -f(x) as well.
- *Saturates*: the derivative goes to 0 on that side without staying there; the level is what f
  goes to.
- *Dead*: the derivative stays 0 there, so nothing is learned from such inputs.
"""
ALONE = """\
## Alone

![{names} and their derivatives from -6 to 6]({folder}/{overview})
"""
GATED = """\
## Gated units

out = f(gate) * g(up), so grad_gate = grad_out * f'(gate) * g(up) and
grad_up = grad_out * f(gate) * g'(up). The range is that of the whole unit; the other columns are
about f. White is where out is near 0, and the colours are the same in all pictures.

![{names} over gate and up from -6 to 6]({folder}/{overview})
"""
SEVERAL = """\
## Of several numbers

out[i], of a group of `pieces` neighbours or of a row, and its derivatives by input j; same
is 1 where i = j, else 0.
"""
NOT_HERE = """\
## Not here

log(sigmoid(x)) is `softplus(x, beta=-1.0)`, and SELU is
`elu(x, alpha=1.6732632423543772, weight=1.0507009873554805)`. celu, tanhshrink, softshrink,
hardshrink, hardtanh and threshold are left out: no model's feed-forward block has them, torch
has one kernel for all but tanhshrink, and a row costs each build from source its seconds.
"""
COLUMNS = (
    "range",
    "largest derivative",
    "smallest derivative",
    "zero-centred",
    "saturates",
    "dead",
)


def overview_name(gated: bool) -> str:
    return "all-gated.svg" if gated else "all-alone.svg"


def galleries(entries: Sequence[Entry]) -> list[Gallery]:
    """The activations and the gated units with their figures, those of them that there are."""
    parts = [[e for e in entries if e.is_gated == gated] for gated in (False, True)]
    return [{entry: figures(entry) for entry in part} for part in parts if part]


def settings(entry: Entry) -> str:
    return ", ".join(f"{name} = {number(value)}" for name, value in entry.options.items())


def extreme(found: Extreme) -> str:
    return f"{number(found.value)} {found.where}"


def with_places(interval: Interval) -> str:
    """The interval, and where its ends are reached if that is at one point."""
    ends = (("smallest", interval.low), ("largest", interval.high))
    places = [f"{name} {end.where}" for name, end in ends if end.at == end.at]
    return ", ".join([str(interval), *places])


def facts(entry: Entry, found: Figures) -> dict[str, str]:
    """What a section says, and in part the table at the top."""
    lines = {"formula": f"`{entry.row.formula}`"}
    lines |= {name: f"`{text}`" for name, text in derivatives(entry).items()}
    if entry.options:
        lines["here"] = settings(entry)
    if found.range_of_unit:
        lines["range"] = str(found.range_of_unit)
        lines["range of f"] = with_places(found.range)
    else:
        lines["range"] = with_places(found.range)
    of_f = {
        "largest derivative": extreme(found.largest),
        "smallest derivative": extreme(found.smallest),
        "zero-centred": found.zero_centred,
        "saturates": found.saturates,
        "dead": found.dead,
    }
    if entry.is_gated:
        of_f = {name: re.sub(r"\bx\b", "gate", text) for name, text in of_f.items()}
        lines["range of f"] = re.sub(r"\bx\b", "gate", lines["range of f"])
    return lines | of_f | {"source": entry.row.source}


def table(gallery: Gallery) -> str:
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for entry, found in gallery.items():
        said = facts(entry, found) | {"range": str(found.range_of_unit or found.range)}
        cells = " | ".join(said[column] for column in COLUMNS)
        lines.append(f"| [{entry.name}](#{entry.name}) | {cells} |")
    return "\n".join(lines) + "\n"


def section(name: str, facts: Mapping[str, str], picture: str = "") -> str:
    lines = [f"### {name}\n", picture, "| | |", "|---|---|"]
    lines += [f"| {what} | {text} |" for what, text in facts.items()]
    return "\n".join(line for line in lines if line) + "\n"


def of_several() -> list[str]:
    """The sections of the functions that no picture shows."""

    def marked(name: str, text: str) -> str:
        return text if name == "source" else f"`{text}`"

    return [
        section(name, {what: marked(what, text) for what, text in said.items()})
        for name, said in OF_SEVERAL.items()
    ]


def page(galleries: Sequence[Gallery]) -> str:
    """All that is said about the galleries, and about what is in none if they hold every entry."""
    parts = [HEAD]
    for gallery in galleries:
        gated = next(iter(gallery)).is_gated
        names = ", ".join(entry.name for entry in gallery)
        head = GATED if gated else ALONE
        parts.append(head.format(names=names, folder=FOLDER, overview=overview_name(gated)))
        parts.append(table(gallery))
        for entry, found in gallery.items():
            picture = f"![{entry.name}]({FOLDER}/{entry.name}.svg)\n"
            parts.append(section(entry.name, facts(entry, found), picture))
    if sum(map(len, galleries)) == len(ROWS):
        parts += [SEVERAL, *of_several(), NOT_HERE]
    return "\n".join(parts)
