"""What the gallery computes and the formulas it states, against the reference and each other."""

import math
from functools import partial

import pytest
import torch
from cases import factors_of, random
from formula_cases import FLOATS, evaluate
from gallery_cases import EVERY

import fused_acts
from fused_acts.gallery import entry, page
from fused_acts.gallery.formulas import OF_SEVERAL, derivatives


@pytest.mark.parametrize("of", EVERY, ids=lambda e: f"{e.name}-{page.settings(e)}")
def test_entries_are_the_rows(of):
    """f, its derivative and g, as the library's calls give them, against the reference."""
    x = torch.linspace(-5.9, 5.9, 60, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    values = [of.options[name] for name in of.row.parameters]
    if of.is_gated:
        f, g = factors_of(of.row, leaf, x, values, of.limit)
        torch.testing.assert_close(of.of_up(x), g, rtol=1e-11, atol=1e-14)
    else:
        f = of.row.f(leaf, *values)
    (slope,) = torch.autograd.grad(f.sum(), leaf)
    torch.testing.assert_close(of.value(x), f.detach(), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(of.derivative(x), slope, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("of", EVERY, ids=lambda e: f"{e.name}-{page.settings(e)}")
def test_formulas(of):
    """Formula and derivatives as text, number by number, against the library."""
    x = torch.linspace(-4.7, 4.7, 48, dtype=torch.float64)
    gate, up = (t.flatten() for t in torch.meshgrid(x, x.flip(0), indexing="ij"))
    texts = derivatives(of)
    expected = {"derivative": ({"x": x}, of.derivative)}
    if of.is_gated:
        by_up = partial(entry.derivative, of.of_up)
        expected = {"f'(gate)": ({"gate": x}, of.derivative), "g'(up)": ({"up": x}, by_up)}
    for what, text in texts.items():
        names, function = expected[what]
        compare(text, names, of, function(x))
    if not of.is_gated:
        compare(of.row.formula, {"x": x}, of, of.value(x))
    elif not ("limit" in of.options and of.row.limit is None):  # the formula is for the defaults
        compare(of.row.formula, {"gate": gate, "up": up}, of, of.out(gate, up))


def compare(text: str, inputs: dict, of: entry.Entry, expected: torch.Tensor) -> None:
    rows = zip(*(t.tolist() for t in inputs.values()), strict=True)
    values = [evaluate(text, **dict(zip(inputs, row, strict=True)), **of.options) for row in rows]
    actual = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def test_formulas_of_several_numbers():
    """The same for the functions of groups and rows, element by element of the Jacobians."""
    gate, up = random(2, 6, dtype=torch.float64, seed=1)
    pieces = 3
    winner = [i * pieces + int(g.argmax()) for i, g in enumerate(gate.split(pieces))]
    p = torch.softmax(gate, 0).tolist()
    names = {"x": gate.tolist(), "up": up.tolist(), "p": p, "winner": winner, "pieces": pieces}
    functions = {
        "maxout": (lambda x: fused_acts.maxout(x, pieces), (gate,)),
        "softmax_glu": (fused_acts.softmax_glu, (gate, up)),
    }
    assert functions.keys() == OF_SEVERAL.keys()
    for name, (function, inputs) in functions.items():
        said = OF_SEVERAL[name]
        by = [text for what, text in said.items() if what.startswith("derivative")]
        out = function(*inputs)
        jacobians = torch.func.jacrev(function, tuple(range(len(inputs))))(*inputs)
        for i in range(len(out)):
            at = names | {"i": i}
            assert math.isclose(eval(said["formula"].partition(", ")[0], FLOATS | at), out[i])
            for text, jacobian in zip(by, jacobians, strict=True):
                for j in range(len(gate)):
                    value = eval(text.partition(", ")[0], FLOATS | at | {"j": j})
                    assert math.isclose(value, jacobian[i, j], abs_tol=1e-15)
