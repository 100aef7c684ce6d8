"""The derivatives of the functions of the tables, as text."""

import re
from collections.abc import Callable

from torch import Tensor

from fused_acts import reference
from fused_acts.gallery.entry import Entry

# By the function of the reference, in its argument x and its parameter.
DERIVATIVES: dict[Callable[..., Tensor], str] = {
    reference.identity: "1",
    reference.plus_one: "1",
    reference.relu: "1 if x > 0 else 0",
    reference.squared_relu: "2 * max(x, 0)",
    reference.leaky_relu: "1 if x > 0 else slope",
    reference.elu: "1 if x > 0 else alpha * exp(x)",
    reference.sigmoid: "s * (1 - s), s = 1 / (1 + exp(-x))",
    reference.tanh: "1 - tanh(x)^2",
    reference.swish: "s + beta * x * s * (1 - s), s = sigmoid(beta * x)",
    reference.gelu: "(1 + erf(x / sqrt(2))) / 2 + x * exp(-x^2 / 2) / sqrt(2 * pi)",
    reference.gelu_tanh: (
        "s + x * s * (1 - s) * sqrt(8 / pi) * (1 + 0.134145 * x^2), "
        "s = sigmoid(sqrt(8 / pi) * (x + 0.044715 * x^3))"
    ),
    reference.softplus: "1 / (1 + exp(-beta * x))",
    reference.mish: "t + x * (1 - t^2) / (1 + exp(-x)), t = tanh(log(1 + exp(x)))",
}


def derivative(function: Callable[..., Tensor], argument: str, parameter: str | None) -> str:
    """The derivative with the argument's and the parameter's names in the place of its own."""
    text = DERIVATIVES[function]
    own = function.__code__.co_varnames[: function.__code__.co_argcount]
    for name, wanted in zip(own, (argument, parameter), strict=False):
        text = re.sub(rf"\b{name}\b", wanted or name, text)
    return text


def derivatives(entry: Entry) -> dict[str, str]:
    """{what by what: formula}: one of an activation, those of both factors of a gated unit."""
    row = entry.row
    if isinstance(row, reference.Activation):
        return {"derivative": derivative(row.f, "x", row.parameter)}
    f, g = derivative(row.f, "gate", row.parameter), derivative(row.g, "up", None)
    if "limit" in entry.options:
        f, g = f"{f}; 0 where gate > limit", f"{g}; 0 where abs(up) > limit"
    return {"f'(gate)": f, "g'(up)": g}
