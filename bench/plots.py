"""The pictures: ratios to eager beside what memory allows, the field, loss curves, bars."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402

from .competitors import COMPILED, EAGER, OURS  # noqa: E402
from .measure import Row  # noqa: E402
from .rivals.results import Result  # noqa: E402

COLOURS = {OURS: "#d1495b", EAGER: "#8d99ae", COMPILED: "#2e6f95"}
MORE_COLOURS = ("#66a182", "#edae49", "#7d5ba6", "#8c5e3c", "#1b998b")
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}
SLOWEST = 4  # times eager; what is slower is an arrow there
FASTEST = 1 / 32  # and what is faster here, in the picture of the field
# To be read where a page shows the picture some 700 pixels wide.
LARGE: dict[Any, Any] = {"font.size": 12, "axes.titlesize": 12, "figure.titlesize": 13}


def colours(competitors: Sequence[str]) -> dict[str, str]:
    spare = iter(MORE_COLOURS)
    return {name: COLOURS.get(name) or next(spare, "#333333") for name in competitors}


def plot_results(path: Path, rows: Sequence[Row], title: str) -> None:
    """Time relative to eager, fresh outputs: a panel a model and direction, a row a token count."""
    rows = [row for row in rows if row.output == "fresh"]
    models = list(dict.fromkeys(row.model for row in rows))
    directions = list(dict.fromkeys(row.direction for row in rows))
    counts = sorted({row.tokens for row in rows})
    palette = colours(list(dict.fromkeys(row.competitor for row in rows)))
    with plt.rc_context(STYLE | LARGE):
        figure, axes = plt.subplots(
            len(models),
            len(directions),
            figsize=(7, 1.3 + (0.6 + 0.4 * len(counts)) * len(models)),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for line, model in zip(axes, models, strict=True):
            for axis, direction in zip(line, directions, strict=True):
                chosen = [r for r in rows if (r.model, r.direction) == (model, direction)]
                draw_panel(axis, chosen, counts, palette)
                axis.set_title(f"{model}, {direction}" if len(models) > 1 else direction)
        axes[0, 0].set_ylim(len(counts) - 0.5, -0.5)
        if len(models) == 1:
            title = f"{models[0]}, {title}"
        figure.suptitle(f"Time relative to eager PyTorch: left is faster\n{title}")
        figure.legend(handles=legend(palette), loc="outside lower center", ncols=4)
        figure.savefig(path, dpi=200)
        plt.close(figure)


def draw_panel(
    axis: Axes, rows: Sequence[Row], counts: Sequence[int], palette: Mapping[str, str]
) -> None:
    """One model in one direction; a bar where memory allows no less."""
    for row in rows:
        at, ours = counts.index(row.tokens), row.competitor == OURS
        ratio = min(row.ratio_to_eager, SLOWEST)
        style: dict[str, Any] = {"color": palette[row.competitor], "ms": 9, "clip_on": False}
        style["marker"] = "o" if ratio == row.ratio_to_eager else ">"
        axis.plot(ratio, at, **style, zorder=4 if ours else 3)
        if ours:
            label = f"{row.ratio_to_eager:.2f}"
            at_label = axis.annotate(
                label, (ratio, at), (0, 9), textcoords="offset points", ha="center", zorder=5
            )
            at_label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
            # By bytes a second, for ours moves the bytes that the limit counts.
            least = row.ratio_to_eager * row.gb_per_s / row.limit_gb_per_s
            axis.plot([least] * 2, [at - 0.2, at + 0.3], color="black", lw=2.5)
    name_axes(axis, counts)


def legend(palette: Mapping[str, str]) -> list[Line2D]:
    return [
        *(
            Line2D([], [], marker="o", ls="", ms=9, color=colour, label=name)
            for name, colour in palette.items()
        ),
        Line2D([], [], marker="|", ls="", ms=14, mew=2.5, color="black", label="memory's limit"),
    ]


def plot_field(path: Path, results: Sequence[Result], title: str) -> None:
    """Time relative to eager, forward: a line of panels a unit, a column a dtype."""
    results = [r for r in results if r.direction == "forward" and r.competitor != EAGER]
    units = list(dict.fromkeys(r.unit for r in results))
    dtypes = list(dict.fromkeys(r.dtype for r in results))
    counts = sorted({r.tokens for r in results})
    palette = colours(list(dict.fromkeys(r.competitor for r in results)))
    palette |= {name: COLOURS[OURS] for name in palette if OURS in name}
    least = max(FASTEST, 0.9 * min(r.ratio_to_eager for r in results))
    with plt.rc_context(STYLE | LARGE):
        figure, axes = plt.subplots(
            len(units),
            len(dtypes),
            figsize=(1.5 + 3 * len(dtypes), 2 + (0.5 + 0.5 * len(counts)) * len(units)),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for line, unit in zip(axes, units, strict=True):
            for axis, dtype in zip(line, dtypes, strict=True):
                chosen = [r for r in results if (r.unit, r.dtype) == (unit, dtype)]
                draw_field_panel(axis, chosen, counts, palette)
                axis.set_title(f"{unit}, {dtype}")
        axes[0, 0].set(xlim=(least, SLOWEST), ylim=(len(counts) - 0.5, -0.5))
        figure.suptitle(f"Time relative to eager PyTorch, forward: left is faster\n{title}")
        handles = legend(palette)[:-1]
        for handle in handles:
            if OURS in str(handle.get_label()) and handle.get_label() != OURS:
                handle.set_markerfacecolor("white")
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def draw_field_panel(
    axis: Axes, results: Sequence[Result], counts: Sequence[int], palette: Mapping[str, str]
) -> None:
    """A band a number of tokens, in it a height a competitor; ours larger, and hollow by out=."""
    names = list(palette)
    name_axes(axis, counts)
    axis.axvline(1, color=COLOURS[EAGER], lw=1.5)
    for edge in range(1, len(counts)):
        axis.axhline(edge - 0.5, color="#e6e6e6", lw=0.8)
    for result in results:
        name, measured = result.competitor, result.ratio_to_eager
        ratio = max(FASTEST, min(measured, SLOWEST))
        height = (names.index(name) + 0.5) / len(names) - 0.5
        marker = "o" if ratio == measured else ">" if measured > SLOWEST else "<"
        style: dict[str, Any] = {"color": palette[name], "ms": 8 if OURS in name else 6.5}
        if name != OURS and OURS in name:
            style["markerfacecolor"] = "white"
        at = counts.index(result.tokens) + 0.7 * height
        axis.plot(ratio, at, marker, clip_on=False, zorder=4 if OURS in name else 3, **style)


def name_axes(axis: Axes, counts: Sequence[int]) -> None:
    """Ratios along, in powers of two, and a line a number of tokens."""
    axis.set_xscale("log", base=2)
    axis.set_xlim(right=SLOWEST)
    axis.xaxis.set_major_locator(LogLocator(2, numticks=9))
    axis.xaxis.set_major_formatter(lambda value, _: str(Fraction(value)))
    axis.set_yticks(range(len(counts)), [f"{count} token{'s' * (count > 1)}" for count in counts])
    axis.grid(axis="y", visible=False)


def plot_losses(path: Path, losses: Mapping[str, Sequence[float]], title: str) -> None:
    """losses: by contender, one training loss an epoch."""
    palette = colours(list(losses))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
        for index, (name, curve) in enumerate(losses.items()):
            epochs = range(1, len(curve) + 1)
            # The curves lie on each other when all is well: a broad line below, a dashed one above.
            width, style = (5.0, "-") if index == 0 else (1.8, "--")
            axis.plot(epochs, curve, style, lw=width, color=palette[name], label=name)
        axis.set(yscale="log", xlabel="epoch", ylabel="training loss (cross entropy)", title=title)
        axis.legend()
        figure.savefig(path, dpi=150)
        plt.close(figure)


def plot_bars(path: Path, panels: Mapping[str, Mapping[str, float]], title: str) -> None:
    """panels: by label a panel beside the others; in each a bar a contender, first on top."""
    count = len(next(iter(panels.values())))
    with plt.rc_context(STYLE | LARGE):
        size = (7, 1.3 + 0.36 * count)
        figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained")
        for axis, (label, values) in zip(axes, panels.items(), strict=True):
            kinds = [name.partition(",")[0] for name in values]
            colour = [COLOURS.get(kind, MORE_COLOURS[0]) for kind in kinds]
            bars = axis.barh(list(values), list(values.values()), color=colour, height=0.7)
            axis.bar_label(bars, fmt="%.3g", padding=3)
            axis.set_title(label, fontweight="normal")
            axis.margins(x=0.17)
            axis.grid(visible=False)
            axis.set_xticks([])
        axes[0].invert_yaxis()
        figure.suptitle(title)
        figure.savefig(path, dpi=200)
        plt.close(figure)
