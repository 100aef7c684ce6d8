"""Ten expressions, of units of the library written anew and of papers, on the CPU and on a GPU."""

import pytest
import torch
import torch.nn.functional as F
from cases import DEVICES, DTYPES
from define_cases import BENT, LOGISH, SINLU, forget
from tolerances import CLOSE_THIRD, close

import fused_acts
from fused_acts._definitions import trial
from fused_acts.tables import Variant, of_gate

pytestmark = pytest.mark.slow


def elu(x, alpha):
    return torch.where(x > 0, x, alpha * torch.expm1(x))  # F.elu has no second derivative at 0


def situ(x, beta):
    return beta * torch.tanh(x / beta) * torch.sigmoid(x)


def smish(x):
    return x * torch.tanh(torch.log1p(torch.sigmoid(x)))


def serf(x):
    return x * torch.erf(F.softplus(x, threshold=40.0))  # torch's own is x itself above 20


EXPRESSIONS = {
    "swish": {"f": "x * sigmoid(x)", "g": None, "reference": F.silu},
    "gelu": {"f": "x * normal_cdf(x)", "g": None, "reference": F.gelu},
    "mish": {"f": "x * tanh(softplus(x))", "g": None, "reference": F.mish},
    "elu": {
        "f": "select(x > 0, x, alpha * expm1(x))",
        "parameters": {"alpha": 1.0},
        "reference": elu,
    },
    "situ": {
        "f": "beta * tanh(x / beta) * sigmoid(x)",
        "parameters": {"beta": 4.0},
        "reference": situ,
    },
    "sinlu": SINLU,
    "bent": BENT,
    "logish": LOGISH,
    "smish": {"f": "x * tanh(log1p(sigmoid(x)))", "reference": smish},
    "serf": {"f": "x * erf(softplus(x))", "reference": serf},
}
SAME_BITS = ("swish", "gelu", "mish")  # known as a whole


@pytest.fixture(params=EXPRESSIONS)
def unit(request, own_units):
    """Its name in the library; what it computes is tried in every dtype where it is defined."""
    name = f"{request.param}_anew"
    yield fused_acts.define(name, **EXPRESSIONS[request.param], verbose=False)
    forget(name)


@pytest.mark.parametrize("device", DEVICES)
def test_expression(unit, device):
    check_three_orders(unit, device)
    if (name := unit.name.removesuffix("_anew")) in SAME_BITS:
        for dtype in DTYPES:
            x = trial.numbers_of(dtype).to(device)
            pair = results(unit, x), results(getattr(fused_acts, name), x)
            for ours, theirs in zip(*pair, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0, equal_nan=True)


def check_three_orders(unit, device):
    """By x, up and learned parameters, of which each has a column's own."""
    row = fused_acts.tables.ROWS[fused_acts._call.ROW_INDEX[unit.name]]
    generator = torch.Generator().manual_seed(1)
    tensors = {"x": torch.randn(3, 37, generator=generator, dtype=torch.float64) * 2}
    tensors |= {"up": tensors["x"].flip(0)} if isinstance(row, Variant) else {}
    tensors |= {p: torch.full((37,), v, dtype=torch.float64) for p, v in row.parameters.items()}
    ours, torchs = (
        [t.to(place).requires_grad_() for t in tensors.values()] for place in (device, "cpu")
    )
    count = len(tensors) - len(row.parameters)
    parameters = dict(zip(row.parameters, ours[count:], strict=True))
    exact = row.f(torchs[0], *of_gate(row, torchs[count:]))
    outs = unit(*ours[:count], **parameters), exact * row.g(torchs[1]) if count == 2 else exact
    close(outs[0].cpu(), outs[1])
    for _ in range(3):
        grads = [
            torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
            for out, leaves in zip(outs, (ours, torchs), strict=True)
        ]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one.cpu(), other, **CLOSE_THIRD)
        outs = [sum(grad.sum(0) if grad.dim() == 2 else grad for grad in each) for each in grads]


def results(function, x):
    x = x.clone().requires_grad_()
    out = function(x)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    return out.detach(), slope.detach(), torch.autograd.grad(slope.sum(), x)[0]
