"""The pictures: ratios to eager, bandwidth against the limit, loss curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

from .competitors import COMPILED, EAGER, OURS  # noqa: E402
from .measure import Row  # noqa: E402

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
MARKERS = {"given": "o", "fresh": "D"}


def colours(competitors: Sequence[str]) -> dict[str, str]:
    spare = iter(MORE_COLOURS)
    return {name: COLOURS.get(name) or next(spare, "#333333") for name in competitors}


def plot_results(path: Path, rows: Sequence[Row], title: str) -> None:
    """A column a token count; a row each for ratios forward, forward+backward, and forward GB/s."""
    models = list(dict.fromkeys(row.model for row in rows))
    tokens = sorted({row.tokens for row in rows})
    palette = colours(list(dict.fromkeys(row.competitor for row in rows)))
    panels = [("forward", "ratio_to_eager"), ("forward+backward", "ratio_to_eager")]
    panels = [panel for panel in panels if any(row.direction == panel[0] for row in rows)]
    if panels[0][0] == "forward":
        panels.append(("forward", "gb_per_s"))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(panels),
            len(tokens),
            figsize=(max(11, 2.2 + 3.4 * len(tokens)), 1 + (1.1 + 0.3 * len(models)) * len(panels)),
            sharex="row",
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for line, (direction, metric) in zip(axes, panels, strict=True):
            for axis, count in zip(line, tokens, strict=True):
                chosen = [r for r in rows if (r.direction, r.tokens) == (direction, count)]
                draw_panel(axis, chosen, models, palette, metric)
                axis.set_title(f"{direction}, {count} token{'s' * (count > 1)}")
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
        figure.legend(handles=legend(palette), loc="outside lower center", ncols=len(palette) + 3)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def draw_panel(
    axis: Axes,
    rows: Sequence[Row],
    models: Sequence[str],
    palette: Mapping[str, str],
    metric: str,
) -> None:
    """A line a model, first on top. Full circles: output given; hollow diamonds: fresh output."""
    for row in rows:
        at = models.index(row.model)
        if metric == "gb_per_s":
            axis.plot([row.limit_gb_per_s] * 2, [at - 0.35, at + 0.35], color="black", lw=1.6)
        axis.plot(
            getattr(row, metric),
            at,
            MARKERS[row.output],
            color=palette[row.competitor],
            markerfacecolor=palette[row.competitor] if row.output == "given" else "white",
            markersize=6.5 if row.output == "given" else 5,
            markeredgewidth=1.3,
            zorder=4 if row.competitor == OURS else 3,
        )
    if metric == "gb_per_s":
        axis.set_xlabel("GB/s of the least traffic")
        axis.set_xlim(left=0)
    else:
        axis.axvline(1, color=COLOURS[EAGER], lw=1)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axis.set_xlabel("time relative to eager (left is faster)")
    axis.set_yticks(range(len(models)), models)
    axis.set_ylim(len(models) - 0.5, -0.5)


def legend(palette: Mapping[str, str]) -> list[Line2D]:
    names = [
        Line2D([], [], marker="s", ls="", color=colour, label=name)
        for name, colour in palette.items()
    ]
    kinds = [
        Line2D([], [], marker="o", ls="", color="#555555", label="output given"),
        Line2D([], [], marker="D", ls="", color="#555555", mfc="white", label="fresh output"),
        Line2D([], [], color="black", lw=1.6, label="machine's 2-read-1-write limit"),
    ]
    return names + kinds


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
    with plt.rc_context(STYLE):
        size = (10, 1.2 + 0.27 * count)
        figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained")
        for axis, (label, values) in zip(axes, panels.items(), strict=True):
            kinds = [name.partition(",")[0] for name in values]
            colour = [COLOURS.get(kind, MORE_COLOURS[0]) for kind in kinds]
            bars = axis.barh(list(values), list(values.values()), color=colour, height=0.7)
            axis.bar_label(bars, fmt="%.1f", padding=3)
            axis.set_xlabel(label)
            axis.margins(x=0.1)
            axis.grid(axis="y", visible=False)
        axes[0].invert_yaxis()
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
        figure.savefig(path, dpi=110)
        plt.close(figure)
