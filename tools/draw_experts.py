"""Draws the pictures of docs/moe.md: where tokens go, and what is kept for the backward pass.

python tools/draw_experts.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch, FancyBboxPatch, Rectangle
from roofline import STYLE

DOCS = Path(__file__).resolve().parent.parent / "docs"
TOKENS = ("#d1495b", "#2e6f95", "#66a182", "#edae49")
IDS = ((0, 2), (0, 1), (2, 1), (2, 0))  # the experts of each token
EXPERTS = 3
# One a row, by expert: (expert, token)
ROWS = sorted((expert, token) for token, chosen in enumerate(IDS) for expert in chosen)
GAP = 0.7  # between experts, in rows
NO_AXES = {"axes.grid": False, "font.size": 12}


def row_at(index: int) -> float:
    """How far from the top a sorted row is."""
    return index + GAP * ROWS[index][0]


def token_at(token: int) -> float:
    return 1.75 + 1.75 * token


def rectangle(axis: Axes, left: float, top: float, width: float, token: int, split: bool) -> None:
    style = {"facecolor": TOKENS[token], "edgecolor": "white", "lw": 1}
    for part in range(1 + split):
        each = width / (1 + split)
        axis.add_patch(Rectangle((left + part * each, top), each, 0.9, **style))


def lines(axis: Axes, left: float, right: float, to_rows: bool) -> None:
    """From each token to its rows, or back."""
    for index, (_, token) in enumerate(ROWS):
        ends = (left, token_at(token) + 0.45), (right, row_at(index) + 0.45)
        if not to_rows:
            ends = (left, ends[1][1]), (right, ends[0][1])
        curve = ConnectionPatch(
            *ends, "data", connectionstyle="arc3,rad=0", color=TOKENS[token], lw=1.5, alpha=0.8
        )
        axis.add_patch(curve)


def draw_tokens(path: Path) -> None:
    """x -> sorted rows -> gate and up -> product -> rows of down -> y"""
    with plt.rc_context(STYLE | NO_AXES):
        figure, axis = plt.subplots(figsize=(9.2, 5), layout="constrained")
        bottom = row_at(len(ROWS) - 1) + 1
        # name, left, width, gate beside up
        stages = [("rows", 4.2, 1.2), ("gate, up", 7.4, 2.4), ("product", 11.8, 1.2)]
        stages.append(("rows", 15, 1.2))
        for expert in range(EXPERTS):
            mine = [row_at(i) for i, row in enumerate(ROWS) if row[0] == expert]
            box = (3.8, mine[0] - 0.2), 12.8, mine[-1] - mine[0] + 1.3
            style = {"boxstyle": "round,pad=0,rounding_size=0.2", "facecolor": "#eef1f5"}
            axis.add_patch(FancyBboxPatch(*box, edgecolor="none", **style))
            end = sum(row[0] <= expert for row in ROWS)
            small: dict[str, Any] = {"ha": "center", "fontsize": 10}
            axis.text(6.4, mine[0], f"expert {expert}", va="top", **small)
            axis.text(6.4, mine[-1] + 0.9, f"offs {end}", va="bottom", **small)
        for name, left, width in stages:
            for index, (_, token) in enumerate(ROWS):
                rectangle(axis, left, row_at(index), width, token, split="," in name)
            axis.text(left + width / 2, -0.5, name, ha="center", va="bottom")
        for name, left in (("x", 0.0), ("y", 20.0)):
            axis.text(left + 0.6, token_at(0) - 0.3, name, ha="center", va="bottom")
            for token in range(len(IDS)):
                rectangle(axis, left, token_at(token), 1.2, token, split=False)
        lines(axis, 1.25, 4.15, to_rows=True)
        lines(axis, 16.25, 19.95, to_rows=False)
        steps = {5.4: "grouped_mm\nby gate_up_proj", 9.8: "the unit, with\noffs and weight"}
        steps |= {13.0: "grouped_mm\nby down_proj"}
        for left in steps:
            arrow = {"arrowstyle": "-|>", "color": "black", "lw": 1.4}
            axis.annotate("", (left + 1.9, bottom / 2), (left + 0.1, bottom / 2), arrowprops=arrow)
        for left, text in ({1.3: "router, then\nsorted by expert"} | steps).items():
            at = left + 1.0 + (left == 1.3) * 0.3
            axis.text(at, bottom + 0.3, text, ha="center", va="top", fontsize=11)
        axis.text(18.3, bottom + 0.3, "back in order,\nsummed", ha="center", va="top", fontsize=11)
        axis.set(xlim=(-0.3, 21.5), ylim=(bottom + 1.7, -1.3))
        axis.axis("off")
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)


D_MODEL, D_FF, K = 1024, 512, 4  # those of `python -m bench moe`
BYTES = 2
PARTS = {
    "x": "#8d99ae",
    "rows by expert": "#b8c0d0",
    "gate, up": "#2e6f95",
    "f(gate)": "#66a182",
    "product": "#edae49",
    "rows of down": "#7d5ba6",
}
ELEMENTS = {
    "x": D_MODEL,
    "rows by expert": K * D_MODEL,
    "gate, up": 2 * K * D_FF,
    "f(gate)": K * D_FF,
    "product": K * D_FF,
    "rows of down": K * D_MODEL,
}
KEPT: dict[str, Sequence[str]] = {
    "torch operations,\ngrouped_mm": [part for part in PARTS if part != "x"],
    'GatedExperts,\n"none"': ["x", "gate, up", "product"],
    '"product"': ["x", "gate, up"],
    '"all"': ["x"],
}


def draw_kept(path: Path) -> None:
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.5, 3.3), layout="constrained")
        for line, parts in enumerate(KEPT.values()):
            left = 0.0
            for part in parts:
                size = BYTES * ELEMENTS[part] / 2**10
                (bar,) = axis.barh(line, size, left=left, color=PARTS[part], edgecolor="white")
                bar.set_height(0.7)
                left += size
            axis.text(left + 0.4, line, f"{left:g}", va="center", fontweight="bold")
        axis.set_yticks(range(len(KEPT)), list(KEPT))
        axis.set(ylim=(len(KEPT) - 0.5, -0.5), xlim=(0, 36))
        axis.set_xlabel(f"KiB a token: {K} experts each, {D_MODEL} and {D_FF} wide, bfloat16")
        handles = [Rectangle((0, 0), 1, 1, color=PARTS[part], label=part) for part in PARTS]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=11)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)


if __name__ == "__main__":
    draw_tokens(DOCS / "moe-tokens.svg")
    draw_kept(DOCS / "moe-kept.svg")
