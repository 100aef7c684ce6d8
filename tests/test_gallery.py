"""The figures of docs/activations.md, against the library's own derivative."""

import math
import re
from pathlib import Path

import pytest
import torch
from gallery_cases import ENTRIES, LIMITED, OTHERS

from fused_acts.gallery import entry, figures, page

DOCS = Path(__file__).resolve().parent.parent / "docs"
TEXT = (DOCS / "activations.md").read_text(encoding="utf-8")
DECIMALS = 5.1e-5  # figures are stated with four


def facts_of(text: str) -> dict[str, dict[str, str]]:
    """{name: {what: figure}} as a page states them."""
    parts = re.split(r"^### (\w+)\n", text, flags=re.M)
    return {
        name: dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", body, re.M))
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


STATED = facts_of(TEXT)


def grid() -> torch.Tensor:
    """[-50, 50] and far beyond, without the corners at 0 and at whole numbers."""
    near = torch.linspace(-50, 50, 20_000, dtype=torch.float64)
    return torch.cat((near, torch.tensor([-1e5, -1e3, 1e3, 1e5], dtype=torch.float64)))


def at(function, *x: float) -> list[float]:
    return function(torch.tensor(x, dtype=torch.float64)).tolist()


def check_extreme(function, value: float, where: str) -> None:
    """That the function has this maximum there, by trying it around there and everywhere else."""
    where = where.replace("gate", "x")
    if math.isfinite(value):
        assert function(grid()).max() <= value + DECIMALS
    if point := re.fullmatch(r"at x = (\S+)", where):
        x = float(point[1])
        below, there, above = at(function, x - 1e-3, x, x + 1e-3)
        assert abs(there - value) <= DECIMALS and there > below and there > above
    elif halves := re.findall(r"for x ([<>]) (\S+)", where):
        for sign, edge in halves:
            outwards = 1 if sign == ">" else -1
            x = [float(edge) + outwards * step for step in (1e-3, 1, 100, 1e5)]
            assert all(abs(y - value) <= DECIMALS for y in at(function, *x))
            assert at(function, float(edge) - outwards * 1e-3)[0] < value - 1e-7
    elif between := re.fullmatch(r"for (\S+) < x < (\S+)", where):
        low, high = (float(end) for end in between.groups())
        inside = at(function, low + 1e-3, (low + high) / 2, high - 1e-3)
        assert all(abs(y - value) <= DECIMALS for y in inside)
        assert max(at(function, low - 1e-3, high + 1e-3)) < value - 1e-7
    elif jump := re.fullmatch(r"as x -> (-?[\d.]+)", where):
        below, there, above = at(function, *(float(jump[1]) + step for step in (-1e-5, 0, 1e-5)))
        assert abs(max(below, above) - value) <= DECIMALS and there < value - DECIMALS
    elif where == "everywhere":
        assert (function(grid()) - value).abs().max() <= DECIMALS
    else:
        ends = re.fullmatch(r"as x -> (.+)", where)[1].split(" and ")
        for end in ends:
            inside, far = at(function, math.copysign(3, float(end)), math.copysign(1e5, float(end)))
            assert inside < far and (far > 1e3 if value == math.inf else abs(far - value) < 1e-3)
        for end in {"-inf", "inf"} - set(ends):
            assert at(function, math.copysign(1e5, float(end)))[0] < value - 0.1


def check_range(function, text: str) -> None:
    left, low, high, right = re.match(r"([\[(])(\S+), ([^\s\])]+)([\])])", text).groups()
    low, high = float(low), float(high)
    values = function(grid())
    lowest, highest = values.min().item(), values.max().item()
    for end, reached, bracket in ((-low, -lowest, left), (high, highest, right)):
        if math.isinf(end):
            assert bracket in "()" and reached > 100
        else:
            assert abs(reached - end) < 1e-3 and reached <= end + DECIMALS
    places = dict(re.findall(r"(smallest|largest) (at \w+ = \S+?)(?:,|$)", text))
    if "smallest" in places:
        assert left == "["
        check_extreme(lambda x: -function(x), -low, places["smallest"])
    if "largest" in places:
        assert right == "]"
        check_extreme(function, high, places["largest"])


def check_figures(of: entry.Entry, stated: dict[str, str]) -> None:
    largest, smallest = (
        stated[f"{name} derivative"].split(" ", 1) for name in ("largest", "smallest")
    )
    check_extreme(of.derivative, float(largest[0]), largest[1])
    check_extreme(lambda x: -of.derivative(x), -float(smallest[0]), smallest[1])
    check_range(of.value, stated["range of f" if of.is_gated else "range"])

    x = grid()
    values, slopes = of.value(x), of.derivative(x)
    odd = torch.allclose(of.value(-x), -values, rtol=1e-12, atol=0)
    both = values.min() < 0 < values.max() and at(of.value, 0.0) == [0]
    assert stated["zero-centred"] == (("yes, odd" if odd else "yes") if both else "no")

    saturates = dict(re.findall(r"(left|right), at (\S+?)(?:;|$)", stated["saturates"]))
    dead = dict(re.findall(r"([<>]) (\S+?)(?:;|$)", stated["dead"]))
    for side, sign, far in (("left", "<", -1e5), ("right", ">", 1e5)):
        assert (abs(at(of.derivative, far)[0]) < 1e-5) == (side in saturates or sign in dead)
        if side in saturates:
            assert abs(at(of.value, far)[0] - float(saturates[side])) <= DECIMALS
            assert at(of.derivative, math.copysign(3, far))[0] != 0
        if sign in dead:
            beyond = x > float(dead[sign]) if sign == ">" else x < float(dead[sign])
            assert (slopes[beyond] == 0).all()
            assert at(of.derivative, float(dead[sign]) - math.copysign(1e-3, far))[0] != 0


@pytest.mark.parametrize("name", ENTRIES)
def test_stated_figures_are_those_of_the_library(name):
    check_figures(ENTRIES[name], STATED[name])


@pytest.mark.parametrize("of", [*OTHERS.values(), *LIMITED], ids=lambda e: e.name)
def test_figures_for_other_parameters(of):
    (gallery,) = page.galleries([of])
    check_figures(of, page.facts(of, gallery[of]))


@pytest.mark.parametrize(
    ("name", "what", "wrong"),
    [
        ("sigmoid", "largest derivative", "0.26 at x = 0"),
        ("sigmoid", "largest derivative", "0.25 at x = 0.01"),
        ("sigmoid", "range", "[0, 1.1)"),
        ("sigmoid", "zero-centred", "yes"),
        ("sigmoid", "saturates", "left, at 0"),
        ("sigmoid", "saturates", "left, at 0; right, at 2"),
        ("tanh", "zero-centred", "yes"),
        ("tanh", "smallest derivative", "0 as x -> inf"),
        ("relu", "largest derivative", "1 for x > 0.1"),
        ("relu", "dead", "-"),
        ("relu", "dead", "x < -1"),
        ("elu", "largest derivative", "1 as x -> inf and -inf"),
        ("swish", "range", "[-0.2786, inf), smallest at x = -1.2785"),
        ("swish", "range", "[-0.2785, inf), smallest at x = -1.27"),
        ("swish", "smallest derivative", "-0.1 at x = -2.3994"),
        ("softplus", "dead", "x < 0"),
    ],
)
def test_a_wrong_figure_is_noticed(name, what, wrong):
    check_figures(ENTRIES[name], STATED[name])
    with pytest.raises(AssertionError):
        check_figures(ENTRIES[name], STATED[name] | {what: wrong})


# (value, place). Swish's lowest is -W(1/e) at -1 - W(1/e), with Lambert's W.
KNOWN = {
    "sigmoid": {"largest": (0.25, 0.0)},
    "tanh": {"largest": (1.0, 0.0)},
    "swish": {"largest": (1.099839, 2.399357), "low": (-0.278465, -1.278465)},
    "gelu": {
        "largest": (math.erfc(-1) / 2 + math.exp(-1) / math.sqrt(math.pi), math.sqrt(2)),
        "low": (-0.169971, -0.751792),
    },
    "mish": {"largest": (1.088498, 1.490571), "low": (-0.308843, -1.192431)},
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_figures(name):
    (gallery,) = page.galleries([ENTRIES[name]])
    found = gallery[ENTRIES[name]]
    extremes = {"largest": found.largest, "low": found.range.low}
    for which, (value, place) in KNOWN[name].items():
        assert extremes[which].value == pytest.approx(value, abs=1e-6)
        assert extremes[which].at == pytest.approx(place, abs=1e-6)


@pytest.mark.parametrize(
    ("function", "interval", "largest"),
    [
        (lambda x: x / (1 + x.abs()), "(-1, 1)", "1 at x = 0"),  # slowly towards its limits
        (lambda x: x.clamp(-2, 2), "[-2, 2]", "1 for -2 < x < 2"),
        (lambda x: torch.relu(-x), "[0, inf)", "0 for x > 0"),
        (lambda x: torch.cos(x.clamp(-3, 3)) * 2, "[-1.98, 2]", "2 at x = -1.5708"),
        (torch.zeros_like, "[0, 0]", "0 everywhere"),
    ],
)
def test_ranges_and_extremes_of_other_functions(function, interval, largest):
    assert str(figures.interval(function)) == interval
    slope = figures.supremum(lambda x: entry.derivative(lambda x: function(x) + 0 * x, x))
    assert page.extreme(slope) == largest
