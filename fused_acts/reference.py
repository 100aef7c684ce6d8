"""The oracle: every variant in plain torch, apart from the C++, differentiable to any order.

A gated unit is a product of two unary activations, out = f(gate) * g(up). VARIANTS has a row for
each variant, in the order of csrc/variants.h.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def identity(x: Tensor) -> Tensor:
    """x"""
    return x


def relu(x: Tensor) -> Tensor:
    """max(x, 0), NaN stays NaN"""
    return torch.relu(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))"""
    return torch.sigmoid(x)


def swish(x: Tensor) -> Tensor:
    """x * sigmoid(x)"""
    return x * torch.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), where Phi is the cumulative distribution of the standard normal"""
    # erfc, not 1 + erf, which cancels in the negative tail.
    return x * torch.erfc(x * -math.sqrt(0.5)) * 0.5


def gelu_tanh(x: Tensor) -> Tensor:
    """x * (1 + tanh(u)) / 2, u = sqrt(2 / pi) * (x + 0.044715 * x^3)"""
    # (1 + tanh(u)) / 2 is sigmoid(2u), which does not cancel in the negative tail.
    return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))


class Variant(NamedTuple):
    """One gated unit, out = f(gate) * g(up), with its formula and the paper it comes from."""

    f: Callable[[Tensor], Tensor]
    g: Callable[[Tensor], Tensor]
    formula: str
    source: str


_DAUPHIN = "Dauphin et al. 2017, https://arxiv.org/abs/1612.08083"
_SHAZEER = "Shazeer 2020, https://arxiv.org/abs/2002.05202"

VARIANTS = {
    "glu": Variant(sigmoid, identity, "sigmoid(gate) * up", _DAUPHIN),
    "bilinear": Variant(identity, identity, "gate * up", _SHAZEER),
    "reglu": Variant(relu, identity, "max(gate, 0) * up", _SHAZEER),
    "geglu": Variant(gelu, identity, "gate * (1 + erf(gate / sqrt(2))) / 2 * up", _SHAZEER),
    "geglu_tanh": Variant(
        gelu_tanh,
        identity,
        "gate * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 * gate^3))) / 2 * up",
        _SHAZEER,
    ),
    "swiglu": Variant(swish, identity, "gate * sigmoid(gate) * up", _SHAZEER),
}


def halves(x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """Views (gate, up) of a packed x: [..., 2 * cols], each [..., cols]."""
    if layout == "gate_up":
        gate, up = torch.unflatten(x, -1, (2, -1)).unbind(-2)
    elif layout == "up_gate":
        up, gate = torch.unflatten(x, -1, (2, -1)).unbind(-2)
    elif layout == "interleaved":
        gate, up = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
    else:
        raise ValueError(f"layout: expected gate_up, up_gate or interleaved, got {layout!r}")
    return gate, up


def gated(
    gate: Tensor, up: Tensor | None = None, *, variant: str = "swiglu", layout: str = "gate_up"
) -> Tensor:
    """f(gate) * g(up) in plain torch; arguments and result as in `fused_acts.gated`.

    Computed in the dtype of the inputs, or in float32 with one rounding for 16-bit dtypes. Accurate
    to a few ulp in float64, tails included.
    """
    if up is None:
        gate, up = halves(gate, layout)
    if gate.shape != up.shape:
        raise ValueError(
            f"up: expected the shape of gate, {tuple(gate.shape)}, got {tuple(up.shape)}"
        )
    real = torch.promote_types(gate.dtype, torch.float32)
    row = VARIANTS[variant]
    return (row.f(gate.to(real)) * row.g(up.to(real))).to(gate.dtype)
