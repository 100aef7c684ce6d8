"""What the gallery computes and the formulas it states, against the reference and each other."""

import math

import pytest
import torch
from gallery_cases import EVERY

from fused_acts.gallery import entry, page
from fused_acts.gallery.formulas import derivatives


@pytest.mark.parametrize("of", EVERY, ids=lambda e: f"{e.name}-{page.settings(e)}")
def test_entries_are_the_rows(of):
    """f, its derivative and g, as the library's calls give them, against the reference."""
    x = torch.linspace(-5.9, 5.9, 60, dtype=torch.float64)
    cut = x.clamp(max=of.limit).requires_grad_()
    options = [v for n, v in of.options.items() if n == of.row.parameter]
    f = of.row.f(cut, *options)
    (slope,) = torch.autograd.grad(f.sum(), cut)
    torch.testing.assert_close(of.value(x), f.detach(), rtol=1e-11, atol=1e-14)
    slope = torch.where(x > of.limit, 0.0, slope)
    torch.testing.assert_close(of.derivative(x), slope, rtol=1e-11, atol=1e-14)
    if of.is_gated:
        g = of.row.g(x.clamp(-of.limit, of.limit))
        torch.testing.assert_close(of.of_up(x), g, rtol=1e-11, atol=1e-14)


FUNCTIONS = {
    **{name: getattr(math, name) for name in ("exp", "log", "sqrt", "erf", "tanh", "pi")},
    "max": max,
    "min": min,
    "abs": abs,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "clamp": lambda x, low, high: min(max(x, low), high),
}


def evaluate(text: str, **names: float) -> float:
    """A formula as written: `value; 0 where condition` or `value, s = ...`, with ^ for powers."""
    text, _, zero = text.replace("^", "**").partition("; 0 where ")
    if zero and eval(zero, FUNCTIONS | names):
        return 0.0
    text, _, definition = text.partition(", s = ") if ", s = " in text else text.partition(", t = ")
    if definition:
        value = eval(definition, FUNCTIONS | names)
        names |= {"s": value, "t": value}
    return eval(text, FUNCTIONS | names)


@pytest.mark.parametrize("of", EVERY, ids=lambda e: f"{e.name}-{page.settings(e)}")
def test_formulas(of):
    """Formula and derivatives as text, number by number, against the library."""
    x = torch.linspace(-4.7, 4.7, 48, dtype=torch.float64)
    gate, up = (t.flatten() for t in torch.meshgrid(x, x.flip(0), indexing="ij"))
    texts = derivatives(of)
    if not of.is_gated:
        compare(of.row.formula, {"x": x}, of, of.value(x))
        compare(texts["derivative"], {"x": x}, of, of.derivative(x))
        return
    if not ("limit" in of.options and of.row.limit is None):  # the formula is for the defaults
        compare(of.row.formula, {"gate": gate, "up": up}, of, of.out(gate, up))
    compare(texts["f'(gate)"], {"gate": x}, of, of.derivative(x))
    compare(texts["g'(up)"], {"up": x}, of, entry.derivative(of.of_up, x))


def compare(text: str, inputs: dict, of: entry.Entry, expected: torch.Tensor) -> None:
    rows = zip(*(t.tolist() for t in inputs.values()), strict=True)
    values = [evaluate(text, **dict(zip(inputs, row, strict=True)), **of.options) for row in rows]
    actual = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
