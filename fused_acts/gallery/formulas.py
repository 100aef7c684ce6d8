"""The derivatives of the functions of the tables, as text, and what is in no table."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fused_acts import tables
from fused_acts.gallery.entry import Entry

# Functions of several numbers, with i the index of out and j that of an input; same is 1 where they
# are equal, else 0. What is behind ", " says what the names stand for.
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
    "rms_norm_gated": {
        "formula": "n[i] * weight[i] * swish(z[i]), n = r * x, r = 1 / sqrt(mean(x^2) + eps)",
        "derivative by x[j]": "r * (same - n[i] * n[j] / cols) * weight[i] * swish(z[i])",
        "derivative by z[j]": "same * n[i] * weight[i] * swish'(z[i])",
        "derivative by weight[j]": "same * n[i] * swish(z[i])",
        "source": "Mamba 2: Dao and Gu 2024, https://arxiv.org/abs/2405.21060",
    },
    "polynorm_glu": {
        "formula": "(c[0] * n3[i] + c[1] * n2[i] + c[2] * n1[i] + bias) * up[i], nk = rk * gate^k, "
        "rk = 1 / sqrt(mean(gate^2k) + eps)",
        "derivative by gate[j]": "(c[0] * r3 * (same - n3[i] * n3[j] / cols) * 3 * gate[j]**2 + "
        "c[1] * r2 * (same - n2[i] * n2[j] / cols) * 2 * gate[j] + "
        "c[2] * r1 * (same - n1[i] * n1[j] / cols)) * up[i]",
        "derivative by up[j]": "same * (c[0] * n3[i] + c[1] * n2[i] + c[2] * n1[i] + bias)",
        "source": "Zhuo et al. 2024, https://arxiv.org/abs/2411.03884",
    },
    "topk_geglu": {
        "formula": "gelu_tanh(t[i]) * up[i], t = max(gate - (mean + q * std), 0)",
        "derivative by gate[j]": "(same - (1 + q * (gate[j] - mean) / std) / cols) * "
        "gelu_tanh'(t[i]) * up[i] if t[i] > 0 else 0",
        "derivative by up[j]": "same * gelu_tanh(t[i])",
        "source": "You et al. 2025, https://arxiv.org/abs/2506.06644",
    },
}


def derivative(
    function: Callable[..., Tensor], argument: str, parameters: Sequence[str]
) -> str | None:
    """What the docstring states as the derivative, with these names of argument and parameters."""
    text = " ".join((function.__doc__ or "").partition("Derivative: ")[2].split())
    if not text:
        return None
    own = function.__code__.co_varnames[: function.__code__.co_argcount]
    for name, wanted in zip(own, (argument, *parameters), strict=False):
        text = re.sub(rf"\b{name}\b", wanted, text)
    return text


def derivatives(entry: Entry) -> dict[str, str]:
    """{what by what: formula}, of an activation or of both factors of a gated unit, where known."""
    row, names = entry.row, tuple(entry.row.parameters)
    if isinstance(row, tables.Activation):
        parts: dict[str, Any] = {"derivative": (row.f, "x", names, "")}
    else:
        cut = "limit" in entry.options
        limited = "gate * sigmoid(gate)" if row.limits_value else "gate"
        parts = {
            "f'(gate)": (
                row.f,
                "gate",
                tables.of_gate(row, names),
                f"; 0 where {limited} > limit" if cut else "",
            ),
            "g'(up)": (
                row.g,
                "up",
                tables.of_up(row, names),
                "; 0 where abs(up) > limit" if cut else "",
            ),
        }
    found = {
        name: (derivative(function, argument, given), beyond)
        for name, (function, argument, given, beyond) in parts.items()
    }
    return {name: text + beyond for name, (text, beyond) in found.items() if text}
