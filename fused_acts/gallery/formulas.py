"""The derivatives of the functions of the tables, as text, and what is in no table."""

import re
from collections.abc import Callable

from torch import Tensor

from fused_acts import tables
from fused_acts.gallery.entry import Entry

# By the function of the tables, in its argument x and its parameter. The page states no derivative
# of a function that is not here.
DERIVATIVES: dict[Callable[..., Tensor], str] = {
    tables.identity: "1",
    tables.plus_one: "1",
    tables.relu: "1 if x > 0 else 0",
    tables.squared_relu: "2 * max(x, 0)",
    tables.leaky_relu: "1 if x > 0 else slope",
    tables.elu: "1 if x > 0 else alpha * exp(x)",
    tables.sigmoid: "s * (1 - s), s = 1 / (1 + exp(-x))",
    tables.tanh: "1 - tanh(x)^2",
    tables.swish: "s + beta * x * s * (1 - s), s = sigmoid(beta * x)",
    tables.gelu: "(1 + erf(x / sqrt(2))) / 2 + x * exp(-x^2 / 2) / sqrt(2 * pi)",
    tables.gelu_tanh: (
        "s + x * s * (1 - s) * sqrt(8 / pi) * (1 + 0.134145 * x^2), "
        "s = sigmoid(sqrt(8 / pi) * (x + 0.044715 * x^3))"
    ),
    tables.softplus: "1 / (1 + exp(-beta * x))",
    tables.mish: "t + x * (1 - t^2) / (1 + exp(-x)), t = tanh(log(1 + exp(x)))",
}

# Functions of several numbers, with i the index of out and j that of an input.
OF_SEVERAL = {
    "maxout": {
        "formula": "max(x[i * pieces : (i + 1) * pieces])",
        "derivative by x[j]": "1 if j == winner[i] else 0, winner[i] the first place of out[i]",
        "source": "Goodfellow et al. 2013, https://arxiv.org/abs/1302.4389",
    },
    "softmax_glu": {
        "formula": "p[i] * up[i], p = exp(gate) / sum(exp(gate))",
        "derivative by gate[j]": "p[i] * ((1 if i == j else 0) - p[j]) * up[i]",
        "derivative by up[j]": "p[i] if i == j else 0",
        "source": "softmax: Bridle 1990",
    },
}


def derivative(function: Callable[..., Tensor], argument: str, parameter: str | None) -> str:
    """The derivative with the argument's and the parameter's names in the place of its own."""
    text = DERIVATIVES[function]
    own = function.__code__.co_varnames[: function.__code__.co_argcount]
    for name, wanted in zip(own, (argument, parameter), strict=False):
        text = re.sub(rf"\b{name}\b", wanted or name, text)
    return text


def derivatives(entry: Entry) -> dict[str, str]:
    """{what by what: formula}, of an activation or of both factors of a gated unit, where known."""
    row = entry.row
    if isinstance(row, tables.Activation):
        parts = {"derivative": (row.f, "x", "")}
    else:
        cut = "limit" in entry.options
        parts = {
            "f'(gate)": (row.f, "gate", "; 0 where gate > limit" if cut else ""),
            "g'(up)": (row.g, "up", "; 0 where abs(up) > limit" if cut else ""),
        }
    return {
        name: derivative(function, argument, row.parameter) + beyond
        for name, (function, argument, beyond) in parts.items()
        if function in DERIVATIVES
    }
