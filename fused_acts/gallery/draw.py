"""The pictures: all at a glance, and one for each entry. The same bytes each time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch

from fused_acts.gallery.entry import Entry
from fused_acts.gallery.figures import Extreme, Figures, at, number
from fused_acts.gallery.page import Gallery, overview_name, settings

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import BoundaryNorm  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa4af",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff2",
    "grid.linewidth": 0.8,
    "xtick.color": "#5a6570",
    "ytick.color": "#5a6570",
    "font.size": 9,
    "font.sans-serif": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    # The same bytes each time.
    "svg.hashsalt": "fused_acts",
    "svg.fonttype": "none",
}
VALUE, SLOPE = "#2e6f95", "#d1495b"
EDGE = 6.0
HEIGHT = (-1.7, 4.0)  # one for all, so that pictures compare
COLUMNS = 3  # so that a page some 700 pixels wide shows the labels in their size
STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
LEVELS = (*(-step for step in reversed(STEPS)), *STEPS)


def draw_curves(axis: Axes, entry: Entry, figures: Figures) -> None:
    """f and f' over [-6, 6], with the largest derivative and the smallest value marked."""
    x = torch.linspace(-EDGE, EDGE, 481, dtype=torch.float64)
    slope = entry.derivative(x)
    steps = slope.diff().abs()
    around = torch.nn.functional.pad(steps, (1, 1))
    jumps = steps > 0.01 + 5 * torch.maximum(around[:-2], around[2:])
    slope[1:][jumps] = torch.nan  # no line across a jump
    axis.axhline(0, color="#9aa4af", linewidth=0.8)
    axis.axvline(0, color="#9aa4af", linewidth=0.8)
    axis.plot(x.numpy(), entry.value(x).numpy(), color=VALUE, linewidth=1.8, label="f")
    axis.plot(x.numpy(), slope.numpy(), color=SLOPE, linewidth=1.4, label="f'")
    top, bottom = figures.largest, figures.range.low
    if abs(top.at) <= EDGE:
        free = at(entry.value, top.at) < top.value  # above it
        mark(axis, top, SLOPE, (0, 4) if free else (2, -15), "center" if free else "left")
    if abs(bottom.at) <= EDGE:
        mark(axis, bottom, VALUE, (2, -11), "right")
    axis.set_xlim(-EDGE, EDGE)
    axis.set_xticks(range(-6, 7, 2))
    axis.set_ylim(HEIGHT)
    axis.set_yticks(range(-1, 5))


def mark(axis: Axes, extreme: Extreme, colour: str, shift: tuple[int, int], side: str) -> None:
    """A dot and its value, shifted by points."""
    place = (extreme.at, extreme.value)
    axis.plot(*place, "o", color=colour, markersize=3.5)
    axis.annotate(
        number(extreme.value),
        place,
        shift,
        textcoords="offset points",
        ha=side,
        color=colour,
        fontsize=8,
    )


def draw_map(axis: Axes, entry: Entry) -> Any:
    """The unit over gate and up in [-6, 6]; one scale of colours for all."""
    side = torch.linspace(-EDGE, EDGE, 301, dtype=torch.float64)
    up, gate = torch.meshgrid(side, side, indexing="ij")
    colours = plt.get_cmap("RdBu_r", len(LEVELS) + 1)
    image = axis.imshow(
        entry.out(gate, up).numpy(),
        cmap=colours,
        norm=BoundaryNorm(LEVELS, colours.N, extend="both"),
        origin="lower",
        extent=(-EDGE, EDGE, -EDGE, EDGE),
        interpolation="none",
    )
    axis.set_xticks(range(-6, 7, 2))
    axis.set_yticks(range(-6, 7, 2))
    axis.grid(False)
    return image


def key(figure: Figure, image: Any, axes: Any) -> None:
    bar = figure.colorbar(image, ax=axes, ticks=LEVELS, pad=0.02)
    bar.ax.set_yticklabels([number(level) for level in LEVELS])
    bar.outline.set_visible(False)
    bar.set_label("out")


def title(entry: Entry) -> str:
    return f"{entry.name}\n{settings(entry)}" if entry.given else entry.name


def draw_overview(gallery: Gallery, gated: bool) -> Figure:
    rows = -(-len(gallery) // COLUMNS)
    columns = min(COLUMNS, len(gallery))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.2 * columns + 0.6, 1.9 * rows + 0.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(gallery) :]:
        axis.set_axis_off()
    image = None
    for axis, (entry, figures) in zip(axes.flat, gallery.items(), strict=False):
        axis.set_title(title(entry))
        axis.tick_params(labelbottom=True, length=2)
        if gated:
            image = draw_map(axis, entry)
        else:
            draw_curves(axis, entry, figures)
    if gated:
        key(figure, image, axes)
        figure.supxlabel("gate")
        figure.supylabel("up")
    else:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def draw_one(entry: Entry, figures: Figures) -> Figure:
    if not entry.is_gated:
        figure, curves = plt.subplots(figsize=(5.4, 3.2), layout="constrained")
        curves.set_title(title(entry))
    else:
        figure, (left, curves) = plt.subplots(
            1, 2, figsize=(8.6, 3.3), layout="constrained", width_ratios=(1, 1.25)
        )
        key(figure, draw_map(left, entry), left)
        left.set_title(title(entry))
        left.set_xlabel("gate")
        left.set_ylabel("up")
        curves.set_title("f and f'")
    draw_curves(curves, entry, figures)
    curves.set_xlabel("gate" if entry.is_gated else "x")
    curves.legend(loc="upper left")
    return figure


def save(figure: Figure, path: Path) -> None:
    undated = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=undated)
    plt.close(figure)


def draw_alone(entry: Entry, figures: Figures, path: Path) -> None:
    """The picture of one, in the format that the suffix of the path says."""
    with plt.rc_context(STYLE):
        save(draw_one(entry, figures), path)


def draw(galleries: Sequence[Gallery], folder: Path) -> None:
    """Pictures of all into the folder, one overview for each gallery."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for gallery in galleries:
            gated = next(iter(gallery)).is_gated
            save(draw_overview(gallery, gated), folder / overview_name(gated))
            for entry, figures in gallery.items():
                save(draw_one(entry, figures), folder / f"{entry.name}.svg")
