"""How long each unit of a chip is busy with an element of a kernel, and the picture of it.

A model: clocks an element and multiprocessor, from public peak rates and from counts in the machine
code. The unit that is busy longest sets the pace; memory should.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from machine_code import Kernel

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402


@dataclass(frozen=True)
class Chip:
    name: str
    bandwidth: float  # bytes a second
    multiprocessors: int
    clock: float  # Hz
    # Results a clock and multiprocessor.
    float32: int
    float64: int

    @property
    def bytes_per_clock(self) -> float:
        """Of memory, for a multiprocessor."""
        return self.bandwidth / self.multiprocessors / self.clock


# By the architecture of its code.
CHIPS = {
    80: Chip("A100 80GB", 2.039e12, 108, 1.41e9, 64, 32),
    90: Chip("H100 SXM", 3.35e12, 132, 1.755e9, 128, 64),
    100: Chip("B200", 8.0e12, 148, 1.85e9, 128, 64),
}
ISSUE, SPECIAL, INTEGER = 128, 16, 64  # results a clock and multiprocessor, on all of them
LATENCY = 800e-9  # seconds that a load takes while memory is busy

FLOAT32 = "F(ADD|MUL|FMA)|IMAD|H(ADD|MUL|FMA)2"
PACKED = "F(ADD|MUL|FMA)2"  # two results each
FLOAT64 = "D(ADD|MUL|FMA|SETP|MNMX)"
OTHERS = r"MUFU|LDG|STG|BRA|EXIT|CALL|BSSY|BSYNC|NOP|S2R|LDC|LDCU|U\w+"  # neither float nor integer


def clocks(kernel: Kernel) -> dict[str, float]:
    """{unit: clocks an element and multiprocessor}, memory first."""
    chip, count = CHIPS[kernel.architecture], kernel.per_element
    floats = count(FLOAT32) + 2 * count(PACKED)
    integers = count() - count("|".join([FLOAT32, PACKED, FLOAT64, OTHERS]))
    # All loads of a thread are in flight together; then it issues, at best every second clock.
    life_of_thread = LATENCY * chip.clock + 2 * len(kernel.hot_path)
    return {
        "memory": kernel.bytes_per_element / chip.bytes_per_clock,
        "issue": count() / ISSUE,
        "special functions": count("MUFU") / SPECIAL,
        "float32": floats / chip.float32,
        "integer": integers / INTEGER,
        "float64": count(FLOAT64) / chip.float64,
        "latency": life_of_thread / (32 * kernel.resident_warps * kernel.elements),
    }


def second(kernel: Kernel) -> tuple[str, float]:
    """The unit that is busy longest beside memory, and how long as a multiple of memory's time."""
    memory, *others = clocks(kernel).items()
    unit, busy = max(others, key=lambda item: item[1])
    return unit, busy / memory[1]


def attainable(kernel: Kernel) -> float:
    """The share of the memory's bandwidth that the model lets the kernel reach."""
    return min(1.0, 1 / second(kernel)[1])


STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    # The same bytes each time.
    "svg.hashsalt": "fused_acts",
    "svg.fonttype": "none",
}
BARS = {  # unit: height, offset, colour
    "memory": (0.84, 0.0, "#d5dbe3"),
    "issue": (0.3, -0.19, "#2e6f95"),
    "special functions": (0.3, 0.19, "#d1495b"),
}


def draw_panel(axis: Axes, kernels: Sequence[Kernel]) -> None:
    for unit, (height, offset, colour) in BARS.items():
        places = [n + offset for n in range(len(kernels))]
        axis.barh(places, [clocks(k)[unit] for k in kernels], height, color=colour, label=unit)
    axis.set_yticks(
        range(len(kernels)),
        [f"{k.variant} {k.direction}, {k.bytes_per_element} B" for k in kernels],
    )
    axis.set_ylim(len(kernels) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)


def draw(kernels: Sequence[Kernel], path: Path) -> None:
    """A row of panels a type, a panel a chip, a bar a kernel and unit."""
    dtypes = ("bfloat16", "float32")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(dtypes),
            len(CHIPS),
            figsize=(11, 7),
            sharex="row",
            sharey="row",
            layout="constrained",
        )
        for dtype, line in zip(dtypes, axes, strict=True):
            for (architecture, chip), axis in zip(CHIPS.items(), line, strict=True):
                of_panel = (architecture, dtype, True)
                chosen = [k for k in kernels if (k.architecture, k.dtype, k.is_main) == of_panel]
                draw_panel(axis, chosen)
                axis.set_title(f"{chip.name}, {dtype}")
        for axis in axes[-1]:
            axis.set_xlabel("clocks an element and multiprocessor")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
