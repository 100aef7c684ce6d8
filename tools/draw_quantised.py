"""Draws the pictures of docs/quantised.md: what the values of a format are, what shares a scale,
and where the scale of a group is in memory.

python tools/draw_quantised.py
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from roofline import STYLE

DOCS = Path(__file__).resolve().parent.parent / "docs"
COLOURS = ("#2e6f95", "#d1495b", "#66a182", "#edae49", "#7d5ba6")
PADDING = "#e4e8ee"
INKS = {PADDING: "#6b7787", "#edae49": "black"}
NO_AXES = {"axes.grid": False, "font.size": 11}


def save(figure: Figure, name: str) -> None:
    figure.savefig(DOCS / name, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def cell(axis: Axes, left: float, top: float, colour: str, text: str) -> None:
    frame = Rectangle((left, top), 1, 1, facecolor=colour, edgecolor="white", lw=1)
    axis.add_patch(frame)
    style = {"ha": "center", "va": "center", "color": INKS.get(colour, "white")}
    axis.text(left + 0.5, top + 0.52, text, fontsize=8.5, **style)


# Magnitudes by their codes.
E4M3 = [(code & 7 | (code > 7) << 3) * 2.0 ** (max(code >> 3, 1) - 10) for code in range(127)]
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
GRIDS = {"e4m3": E4M3, "int8": list(range(128)), "e2m1": E2M1}


def draw_grids() -> None:
    """Below the largest magnitude of a group, as fractions of it."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.6, 2.5), layout="constrained")
        for line, (name, magnitudes) in enumerate(GRIDS.items()):
            ticks = [magnitude / magnitudes[-1] for magnitude in magnitudes if magnitude]
            axis.vlines(ticks, line - 0.32, line + 0.32, color=COLOURS[line], lw=1)
            label = f"{name}\n{2 * len(ticks) + 1} values"
            axis.text(2.0**-18.3, line, label, ha="right", va="center")
        axis.set_xscale("log", base=2)
        axis.set(xlim=(2**-18, 2**0.3), ylim=(2.6, -0.6), yticks=[])
        axis.set_xlabel(
            "fraction of the largest magnitude of a group (also 0, and all of them with a minus)"
        )
        save(figure, "quantised-grids.svg")


# Format: columns that share a scale, and what the scale is.
FORMATS = {
    "fp8_tensor": (0, "one, given"),
    "fp8_row, int8_row": (256, "float32"),
    "fp8_block128": (128, "float32"),
    "mxfp8": (32, "e8m0"),
    "nvfp4": (16, "e4m3"),
}


def draw_groups() -> None:
    """Three rows of 256 columns in each format, a frame around what has a scale of its own."""
    with plt.rc_context(STYLE | NO_AXES):
        figure, axis = plt.subplots(figsize=(8.6, 3.6), layout="constrained")
        for line, (name, (columns, scale)) in enumerate(FORMATS.items()):
            top = 4.4 * line
            axis.text(-6, top + 1.5, name, ha="right", va="center", fontweight="bold")
            axis.text(262, top + 1.5, scale, ha="left", va="center")
            width, height = (columns, 1) if columns else (256, 3)
            for row in range(0, 3, height):
                for group in range(256 // width):
                    at, colour = (group * width, top + row), COLOURS[(row + group) % 2]
                    frame = Rectangle(at, width, height, facecolor=colour, edgecolor="white", lw=1)
                    axis.add_patch(frame)
        axis.text(262, -1, "scale", ha="left", va="center")
        axis.text(128, -1, "3 rows of 256 columns", ha="center", va="center")
        axis.set(xlim=(-105, 320), ylim=(4.4 * len(FORMATS) - 1, -2))
        axis.axis("off")
        save(figure, "quantised-groups.svg")


ROWS, GROUPS, PADDED_ROWS, PADDED_GROUPS = 6, 5, 8, 8
Offset = Callable[[int, int], int]
# Of rows and groups with padding, and where the scale of each is.
LAYOUTS: dict[str, tuple[str, int, int, Offset]] = {
    "row": ("offsets in scales", ROWS, GROUPS, lambda row, group: row * GROUPS + group),
    "col": ("offsets in scales", PADDED_ROWS, GROUPS, lambda row, group: group * PADDED_ROWS + row),
    "packed_ue8m0": (
        "offsets in bytes",
        PADDED_ROWS,
        PADDED_GROUPS,
        lambda row, group: (group // 4 * PADDED_ROWS + row) * 4 + group % 4,
    ),
}


def draw_layouts() -> None:
    """Six rows of five groups, the number in each cell where in memory it is."""
    with plt.rc_context(STYLE | NO_AXES):
        figure, axis = plt.subplots(figsize=(9.2, 3.7), layout="constrained")
        left = 0.0
        for name, (unit, rows, groups, offset) in LAYOUTS.items():
            axis.text(left, -1.5, f'"{name}"', fontweight="bold", va="center")
            axis.text(left, -0.6, unit, fontsize=9.5, va="center")
            for row in range(rows):
                for group in range(groups):
                    real = row < ROWS and group < GROUPS
                    colour = COLOURS[group] if real else PADDING
                    cell(axis, left + group, row, colour, str(offset(row, group)))
            if name == "packed_ue8m0":  # a frame around the four bytes of a word
                for word in range(0, groups, 4):
                    for row in range(rows):
                        frame = Rectangle((left + word, row), 4, 1, fill=False, edgecolor="black")
                        axis.add_patch(frame)
            left += groups + 2
        for row in range(PADDED_ROWS):
            axis.text(-0.3, row + 0.5, f"row {row}", ha="right", va="center", fontsize=9.5)
        grey = "grey: padding, 1.0 in float32, 0 in bytes; a colour is a group, a frame an int32"
        axis.text(left / 2 - 1, PADDED_ROWS + 0.8, grey, ha="center", va="center")
        axis.set(xlim=(-2.6, left - 1.5), ylim=(PADDED_ROWS + 1.4, -2.1))
        axis.axis("off")
        save(figure, "quantised-layouts.svg")


def draw_swizzled() -> None:
    """A tile of 128 rows and 4 groups: the four bands of rows lie beside each other."""
    with plt.rc_context(STYLE | NO_AXES):
        figure, axis = plt.subplots(figsize=(9.2, 4.6), layout="constrained")
        band, shown = 4.6, (0, 1, 31)  # of 32 rows
        axis.text(2, -1.1, "scales: 128 rows, 4 groups", ha="center", fontweight="bold")
        axis.text(19, -1.1, "memory: 512 bytes, 16 a line", ha="center", fontweight="bold")
        for index in range(4):
            for line, row in enumerate(shown):
                at = line + (row == 31)  # a gap for those between
                for group in range(4):
                    number = str(row * 16 + index * 4 + group)
                    cell(axis, group, index * band + at, COLOURS[index], number)
                    cell(axis, 11 + index * 4 + group, 7.3 + at, COLOURS[index], number)
                label, middle = f"row {index * 32 + row}", index * band + at + 0.5
                axis.text(-0.3, middle, label, ha="right", va="center", fontsize=9.5)
            for left, top in ((2.0, index * band), (13 + index * 4.0, 7.3)):
                axis.text(left, top + 2.4, "...", ha="center", va="center", color="#6b7787")
            arrow = {"arrowstyle": "-|>", "color": COLOURS[index], "lw": 1.4, "alpha": 0.8}
            start, end = (4.2, index * band + 2), (13 + index * 4, 7.1 if index < 2 else 11.5)
            axis.annotate("", end, start, arrowprops=arrow)
        text = "Tiles lie one behind the other, those of the same 128 rows first;"
        text += "\nrows and groups are padded to whole tiles, with 0."
        axis.text(27, 17, text, ha="right", va="center")
        axis.set(xlim=(-2.6, 28), ylim=(4 * band - 0.2, -1.9))
        axis.axis("off")
        save(figure, "quantised-swizzled.svg")


if __name__ == "__main__":
    draw_grids()
    draw_groups()
    draw_layouts()
    draw_swizzled()
