"""How long each unit of a chip is busy with an element of a kernel, and the picture of it.

A model: clocks an element and multiprocessor, from public peak rates and from counts in the machine
code. The unit that is busy longest sets the pace; memory should.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from cuda_kernels import ROWS, ROWS_OF_THREAD, Kernel

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402


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
OTHERS = (
    r"MUFU|LDG|STG|LDS|STS|BAR|BRA|EXIT|CALL|BSSY|BSYNC|NOP|S2R|LDC|LDCU|U\w+"  # not arithmetic
)
SHARED = 128  # bytes of shared memory a clock and multiprocessor


def clocks(kernel: Kernel) -> dict[str, float]:
    """{unit: clocks an element and multiprocessor}, memory first."""
    chip, count = CHIPS[kernel.architecture], kernel.per_element
    floats = count(FLOAT32) + 2 * count(PACKED)
    integers = count() - count("|".join([FLOAT32, PACKED, FLOAT64, OTHERS]))
    # All loads of a thread are in flight together; then it issues, at best every second clock. In a
    # row kernel it waits for what its columns have, and for each row.
    waits = 1 + ROWS_OF_THREAD if kernel.options in ROWS else 1
    life_of_thread = waits * LATENCY * chip.clock + 2 * len(kernel.hot_path)
    return {
        "memory": kernel.bytes_per_element / chip.bytes_per_clock,
        "issue": count() / ISSUE,
        "special functions": count("MUFU") / SPECIAL,
        "float32": floats / chip.float32,
        "integer": integers / INTEGER,
        "float64": count(FLOAT64) / chip.float64,
        "shared memory": kernel.shared_bytes / kernel.elements / SHARED,
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
    # To be read where a page shows the picture some 700 pixels wide.
    "font.size": 12,
    "axes.titlesize": 12,
    "legend.frameon": False,
    "svg.hashsalt": "fused_acts",  # the same bytes each time
    "svg.fonttype": "path",  # the same place for every letter on every machine
}
COLOURS = {
    "special functions": "#d1495b",
    "issue": "#2e6f95",
    "float32": "#66a182",
    "integer": "#edae49",
    "latency": "#7d5ba6",
    "shared memory": "#8d99ae",
}
SHOWN = [f"{v} {d}" for v in ("swiglu", "geglu_tanh", "geglu") for d in ("forward", "backward")]


def draw(kernels: Sequence[Kernel], path: Path) -> None:
    """How busy the busiest unit beside memory is, of 16-bit types; a panel is a chip."""
    busiest: dict[tuple[int, str], tuple[str, float]] = {}
    for k in kernels:
        if k.is_main and k.dtype in ("bfloat16", "float16"):
            place = k.architecture, f"{k.variant} {k.direction}"
            busiest[place] = max(second(k), busiest.get(place, ("", 0.0)), key=lambda unit: unit[1])
    with plt.rc_context(STYLE):
        size = (7, 3.6)
        figure, axes = plt.subplots(1, len(CHIPS), figsize=size, sharey=True, layout="constrained")
        units = set()
        for (architecture, chip), axis in zip(CHIPS.items(), axes, strict=True):
            for row, name in enumerate(SHOWN):
                unit, busy = busiest[architecture, name]
                units.add(unit)
                bar = axis.barh(row, 100 * busy, color=COLOURS[unit], height=0.65)
                axis.bar_label(bar, fmt="%.0f%%", padding=3)
            axis.axvline(100, color="black", lw=2)
            axis.set(title=chip.name, xlim=(0, 108), xticks=(0, 50, 100))
        axes[0].set_yticks(range(len(SHOWN)), SHOWN)
        axes[0].set_ylim(len(SHOWN) - 0.5, -0.5)
        figure.suptitle(
            "The busiest unit beside memory, in % of memory's time:\n"
            "left of the line memory sets the pace",
            fontsize=13,
        )
        handles = [Patch(color=COLOURS[unit], label=unit) for unit in COLOURS if unit in units]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
