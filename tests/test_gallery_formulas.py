"""What the gallery computes and the formulas it states, against the reference and each other."""

import math
import re
from functools import partial
from statistics import NormalDist

import pytest
import torch
from cases import factors_of, random
from formula_cases import FLOATS, evaluate
from gallery_cases import EVERY

import fused_acts
from fused_acts import tables
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


def several_numbers():
    """{function: (call, inputs, what the formulas call its parts)}"""
    gate, up = random(2, 6, dtype=torch.float64, seed=1)
    weight, c = random(6, dtype=torch.float64, seed=2), random(3, dtype=torch.float64, seed=3)
    pieces, bias = 3, torch.tensor([0.5], dtype=torch.float64)
    winner = [i * pieces + int(g.argmax()) for i, g in enumerate(gate.split(pieces))]
    r = [0, *(1 / math.sqrt((gate**k).square().mean() + 1e-6) for k in (1, 2, 3))]
    n = [None, *((gate**k * r[k]).tolist() for k in (1, 2, 3))]
    mean, std, q = float(gate.mean()), float(gate.std(correction=0)), NormalDist().inv_cdf(0.3)
    given = gate.tolist()
    return {
        "maxout": (
            *(lambda x: fused_acts.maxout(x, pieces), (gate,)),
            {"x": given, "winner": winner, "pieces": pieces},
        ),
        "softmax_glu": (
            *(fused_acts.softmax_glu, (gate, up)),
            {"p": torch.softmax(gate, 0).tolist()},
        ),
        "rms_norm_gated": (
            *(fused_acts.rms_norm_gated, (gate, up, weight)),
            {"x": given, "z": up.tolist(), "n": n[1], "r": r[1], "weight": weight.tolist()},
        ),
        "polynorm_glu": (
            *(lambda gate, up: fused_acts.polynorm_glu(gate, up, c, bias), (gate, up)),
            {f"r{k}": r[k] for k in (1, 2, 3)}
            | {f"n{k}": n[k] for k in (1, 2, 3)}
            | {"c": c.tolist(), "bias": float(bias)},
        ),
        "topk_geglu": (
            *(lambda gate, up: fused_acts.topk_geglu(gate, up, 0.3), (gate, up)),
            {"mean": mean, "std": std, "q": q, "t": [max(g - mean - q * std, 0.0) for g in given]},
        ),
    }, {"gate": given, "up": up.tolist(), "cols": len(given)}


def of_numbers(function):
    def number(x):
        return float(function(torch.tensor(x, dtype=torch.float64)))

    def slope(x):
        return float(torch.func.grad(function)(torch.tensor(x, dtype=torch.float64)))

    return number, slope


def test_formulas_of_several_numbers():
    """The same for the functions of groups and rows, element by element of the Jacobians."""
    functions, common = several_numbers()
    swish, swish_slope = of_numbers(tables.ACTIVATIONS["swish"].f)
    gelu, gelu_slope = of_numbers(tables.ACTIVATIONS["gelu_tanh"].f)
    common |= {"swish": swish, "d_swish": swish_slope, "gelu_tanh": gelu, "d_gelu_tanh": gelu_slope}
    assert functions.keys() == OF_SEVERAL.keys()
    for name, (function, inputs, names) in functions.items():
        # a name of Python in the place of a derivative's
        said = {k: re.sub(r"(\w+)'", r"d_\1", v) for k, v in OF_SEVERAL[name].items()}
        by = [text for what, text in said.items() if what.startswith("derivative")]
        out = function(*inputs)
        jacobians = torch.func.jacrev(function, tuple(range(len(inputs))))(*inputs)
        for i in range(len(out)):
            at = FLOATS | common | names | {"i": i}
            assert math.isclose(eval(said["formula"].partition(", ")[0], at), out[i])
            for text, jacobian in zip(by, jacobians, strict=True):
                for j in range(len(inputs[0])):
                    here = at | {"j": j, "same": int(i == j)}
                    value = eval(text.partition(", ")[0], here)
                    assert math.isclose(value, jacobian[i, j], rel_tol=1e-9, abs_tol=1e-14)
