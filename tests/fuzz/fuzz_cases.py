"""Calls of all kinds, right ones and wrong ones, for hypothesis to draw and to make small."""

from dataclasses import dataclass
from typing import Any

import torch
from cases import ACTIVATIONS, DTYPES, KINDS, PACKED, ROWS, VARIANTS
from fuzz_memory import SHARED, VIEWS, View
from hypothesis import strategies as st
from option_cases import LIMITED, PARAMETRIC, SHAPES

# Around the widths of vectors, and what is split over threads.
COLS = (0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 257)
ROW_SHAPES = ((), (1,), (2,), (3,), (5,), (17,), (0,), (2, 3), (1, 4), (3, 1, 2), (2, 2, 2))
LARGE = (((3,), 12000), ((700,), 64), ((2, 65), 260))
SCALES = (1.0, 4.0, 30.0)
MODES = ("plain", "out", "out is gate", "grad", "inplace_backward")
# What is wrong about a call, and what the error says first.
MISTAKES = {
    "dtype of gate": ("x", "gate"),
    "dtype of up": ("up",),
    "shape of up": ("up",),
    "width": ("x",),
    "0-d": ("x", "gate", "up"),
    "shape of a bias": ("bias", "gate_bias", "up_bias"),
    "dtype of a bias": ("bias", "gate_bias", "up_bias"),
    "an option it does not have": ("sharpness",),
    "limit": ("limit",),
    "layout": ("layout",),
    "shape of out": ("out",),
    "dtype of out": ("out",),
    "dim": ("dim",),
}


@dataclass(frozen=True)
class Case:
    """One call. View(...) in the order gate (or x), up, grad_out, out."""

    kind: str  # unit, activation, maxout, softmax_glu
    name: str
    dtype: torch.dtype
    rows: tuple[int, ...]
    cols: int
    layout: str  # "separate", or of a packed x
    views: tuple[View, ...]
    mode: str
    seed: int
    scale: float
    needs: int = 0  # of the tensors in turn, by bits: which require grad
    biases: tuple[str, ...] = ()
    parameter: str = ""  # "number", or a shape of SHAPES; "": the default
    limit: Any = ""  # "": the default
    row_weight: bool = False
    wide: bool = False  # whether biases and parameter are in the type of the arithmetic
    rounding: str = "single"
    dim: int = -1
    pieces: int = 1
    mistake: str = ""


def views(written: bool = False) -> st.SearchStrategy[View]:
    kinds = [kind for kind in VIEWS if not (written and kind in SHARED)]
    extra, at_end = st.sampled_from((1, 2, 3, 4, 8, 9)), st.booleans()
    return st.builds(View, st.sampled_from(("dense", *kinds)), extra, at_end)


def rarely(usual: Any, others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from((usual, usual, *others))


@st.composite
def cases(draw: Any, large: bool = True) -> Case:
    kind = draw(st.sampled_from(("unit", "unit", "unit", "activation", "maxout", "softmax_glu")))
    rows, cols = draw(st.sampled_from(ROW_SHAPES)), draw(st.sampled_from(COLS))
    if large and draw(st.integers(0, 15)) == 15:
        rows, cols = draw(st.sampled_from(LARGE))
    mode = draw(st.sampled_from(MODES if kind == "unit" else MODES[:4]))
    if kind in ("maxout", "softmax_glu") and mode.startswith("out"):
        mode = "grad"
    made: dict[str, Any] = {
        "kind": kind,
        "name": kind,
        "dtype": draw(st.sampled_from(DTYPES)),
        "rows": rows,
        "cols": cols,
        "layout": "separate",
        "mode": mode,
        "seed": draw(st.integers(0, 99)),
        "scale": draw(st.sampled_from(SCALES)),
    }
    written = mode in ("out is gate", "inplace_backward")
    first, second, last = draw(views(written)), draw(views(written)), draw(views(True))
    if made["dtype"] == torch.float16:
        made["scale"] = min(made["scale"], 4.0)  # sums of squares have no room for more
    made["views"] = first, second, draw(views()), last
    if mode in ("grad", "inplace_backward"):
        made["needs"] = draw(st.integers(1, 63))
    if kind == "maxout":
        made |= {"pieces": draw(st.sampled_from((1, 2, 3, 4, 5, 8, 256)))}
        made |= {"dim": draw(rarely(-1, range(len(rows))))}
        made["cols"] = min(cols, 300)
    if kind in ("unit", "activation"):
        made |= draw(options(kind, rows, mode))
    return Case(**made)


@st.composite
def options(draw: Any, kind: str, rows: tuple[int, ...], mode: str) -> dict[str, Any]:
    names = VARIANTS if kind == "unit" else ACTIVATIONS
    of_kind = [name for name in KINDS if name in names]
    name = draw(st.sampled_from((*of_kind, *names)))
    made: dict[str, Any] = {"name": name, "wide": draw(st.booleans())}
    made["row_weight"] = bool(rows) and draw(st.integers(0, 2)) == 2
    if kind == "unit":
        made["layout"] = draw(st.sampled_from(("separate", *PACKED)))
        some = ((), ("gate_bias",), ("up_bias",), ("gate_bias", "up_bias"))
        packed = made["layout"] != "separate"
        made["biases"] = draw(rarely((), (*some, ("bias",)) if packed else some))
        made["rounding"] = draw(rarely("single", ("single", "eager")))
        if packed and mode != "out is gate":
            made["dim"] = draw(rarely(-1, range(len(rows) + 1)))
    else:
        made["biases"] = draw(rarely((), ((), ("bias",))))
    if name in PARAMETRIC:
        made["parameter"] = draw(rarely("", ("number", *SHAPES)))
    if name in LIMITED:
        made["limit"] = draw(rarely("", (None, 0, 0.75, 7.0)))
    if draw(st.integers(0, 7)) == 7:
        made["mistake"] = draw(st.sampled_from([*MISTAKES]))
    return made


def row_of(case: Case) -> Any:
    return ROWS.get(case.name)
