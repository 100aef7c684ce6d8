"""The oracle of eight and four bits itself, by trying all numbers, and against torch's casts."""

import math
from itertools import pairwise

import pytest
import torch
from cases import random, same_bits
from quantized_cases import GROUPS, WAYS, around, expected

from fused_acts import _reference_quantized as formulas
from fused_acts import reference

E4M3 = torch.arange(256).to(torch.uint8)


def test_numbers_of_the_formats():
    theirs = E4M3.view(torch.float8_e4m3fn).float()
    ours = formulas.from_e4m3(E4M3)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert same_bits(ours[~ours.isnan()], theirs[~theirs.isnan()])
    theirs = E4M3.view(torch.float8_e8m0fnu).float()
    assert torch.equal(formulas.from_e8m0(E4M3).nan_to_num(-1), theirs.nan_to_num(-1))
    assert formulas.from_e2m1(torch.arange(16)).tolist()[8:] == [-n for n in formulas.E2M1]


def numbers():
    """Middles, what is beside them, and numbers of all sizes."""
    middles = [(a + b) / 2 for table in (formulas.E4M3, formulas.E2M1) for a, b in pairwise(table)]
    sizes = random(3000, dtype=torch.float32, seed=1) * torch.logspace(-9, 3, 3000)
    return torch.cat((around(torch.tensor(middles)), sizes, torch.tensor([0.0, -0.0])))


@pytest.mark.parametrize(
    "cast, back, magnitudes",
    [
        (formulas.e4m3, formulas.from_e4m3, formulas.E4M3),
        (formulas.e2m1, formulas.from_e2m1, formulas.E2M1),
        (formulas.int8, lambda x: x.float(), [float(i) for i in range(128)]),
    ],
)
def test_the_nearest_by_trying_all(cast, back, magnitudes):
    """Of two as near that with an even code, in the exact arithmetic of float64."""
    x = numbers()
    result = back(cast(x)).double()
    table = torch.tensor(magnitudes, dtype=torch.float64)
    distances = (x.double().abs().unsqueeze(-1) - table).abs()
    least = distances.amin(-1)
    assert torch.equal((result.abs() - x.double().abs()).abs(), least)
    tie = (distances == least.unsqueeze(-1)).sum(-1) == 2
    assert tie.sum() >= 14
    codes = (result[tie].abs().unsqueeze(-1) == table).int().argmax(-1)
    assert (codes % 2 == 0).all()
    moved = result != 0
    assert torch.equal(result[moved].sign(), x[moved].double().sign())
    if cast is formulas.e4m3:  # of what is in its range, torch's own
        small = x[x.abs() <= 448]
        assert torch.equal(cast(small), small.to(torch.float8_e4m3fn).view(torch.uint8))


def test_powers_above():
    x = around(2.0 ** torch.arange(-149.0, 128.0)).abs()
    x = x[(x > 0) & (x <= 2.0**127)]
    for number, power, code in zip(
        x.tolist(), formulas.power_above(x).tolist(), formulas.e8m0(x).tolist(), strict=True
    ):
        mantissa, exponent = math.frexp(number)
        exponent -= mantissa == 0.5
        assert power == 2.0**exponent and code == max(exponent + 127, 0)
    assert formulas.e8m0(torch.tensor([0.0, 3e38, math.inf, math.nan])).tolist() == [
        0,
        254,
        254,
        255,
    ]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_back(way):
    """Within half a step of what was quantised, whatever the layout of the scales."""
    y = random(133, 130, dtype=torch.float32, seed=1) * torch.logspace(-3, 1, 133).unsqueeze(-1)
    y = y.clamp(-13, 13)  # within the range of fp8_tensor
    given = {n: v for n, v in way.options.items() if n != "scale_rounding"}
    result = expected(y, way)
    back = reference.dequantized(result, **given)
    plain = reference.dequantized(
        expected(y, way._replace(scale_layout="row")), **given | {"scale_layout": "row"}
    )
    assert same_bits(back, plain)
    largest = torch.nn.functional.pad(y, (0, 126)).unflatten(-1, (-1, GROUPS.get(way.format, 256)))
    largest = largest.abs().amax(-1, keepdim=True).expand(-1, -1, largest.shape[-1]).flatten(-2)
    largest = largest[:, : y.shape[-1]]
    if way.format == "int8_row":
        bound = largest * 2 / 254
    elif way.format == "nvfp4":
        bound = largest / 4 + 1 / 40
    else:
        bound = y.abs() / 16 + largest * 2.0**-17 + 2.0**-14
    assert ((back - y).abs() <= bound).all()
