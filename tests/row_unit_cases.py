"""The units of whole rows: calls of each, against exact results and the size of what they add."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from cases import operands, random, to_device
from tolerances import ROW_UNIT_LOST, ROW_UNIT_ULPS, allowed_sum, check
from torch import Tensor

import fused_acts
from fused_acts import reference

EPS = 1e-6
QUANTILE = 1.6448536269514722  # of 0.95


class RowUnit(NamedTuple):
    name: str
    options: dict[str, Any]
    parameters: tuple[str, ...] = ()

    def ours(self) -> Callable[..., Tensor]:
        return partial(getattr(fused_acts, self.name), **self.options)

    def oracle(self) -> Callable[..., Tensor]:
        return partial(getattr(reference, self.name), **self.options)


def _normed(gate: str, before: bool) -> RowUnit:
    return RowUnit("rms_norm_gated", {"gate": gate, "norm_before_gate": before}, ("weight",))


UNITS = {
    "norm_swish": _normed("swish", True),
    "norm_sigmoid": _normed("sigmoid", True),
    "swish_norm": _normed("swish", False),
    "sigmoid_norm": _normed("sigmoid", False),
    "polynorm": RowUnit("polynorm_glu", {}, ("coefficients", "bias")),
    "topk": RowUnit("topk_geglu", {}),
}


def parameters_of(unit: RowUnit, cols: int, dtype: torch.dtype) -> list[Tensor]:
    sizes = {"weight": cols, "coefficients": 3, "bias": 1}
    return [
        random(sizes[name], dtype=dtype, seed=7 + i) + 1.0 for i, name in enumerate(unit.parameters)
    ]


def inputs_of(unit: RowUnit, *shape: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """The arguments of a call, and a gradient of its result."""
    first, second, grad_out = operands(*shape, dtype=dtype)
    return [first / 2, second, *parameters_of(unit, shape[-1], dtype)], grad_out


def run(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_out: Tensor, device: str = "cpu"
) -> list[Tensor]:
    """The result and the gradients."""
    leaves = [to_device(t, device).requires_grad_() for t in inputs]
    out = function(*leaves)
    grads = torch.autograd.grad(out, leaves, to_device(grad_out, device))
    return [t.detach().cpu() for t in (out, *grads)]


def _norm_sizes(unit: RowUnit, inputs: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    x, z, weight = inputs
    size = unit.options.get("group_size", x.shape[-1])
    swish = unit.options["gate"] == "swish"
    a = torch.nn.functional.silu(z) if swish else z.sigmoid()
    slope = a.abs() + z.abs() + 1 if swish else torch.ones_like(z)
    before = unit.options["norm_before_gate"]
    h = x if before else x * a

    def mean(t: Tensor) -> Tensor:
        return t.unflatten(-1, (-1, size)).mean(-1).repeat_interleave(size, -1)

    r = (mean(h.square()) + EPS).rsqrt()
    d = (g * weight * (a if before else 1)).abs()
    by_h = r * d + h.abs() * r**3 * mean(d * h.abs())
    normed = (h * r).abs()
    out = normed * weight.abs() * (a.abs() if before else 1)
    by_z = (g * weight).abs() * normed if before else by_h * x.abs()
    by_weight = g.abs() * normed * (a.abs() if before else 1)
    return [out, by_h if before else by_h * a.abs(), by_z * slope, by_weight]


def _polynorm_sizes(unit: RowUnit, inputs: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    x, u, c, bias = inputs
    d, x, total = (g * u).abs(), x.abs(), bias.abs()
    by_x: Any = 0
    terms = []
    for k in (1, 2, 3):
        r = ((x**k).square().mean(-1, keepdim=True) + EPS).rsqrt()
        terms.append(x**k * r)
        total = total + c[3 - k].abs() * terms[-1]
        through = x ** (2 * k - 1) * r**3 * (d * x**k).mean(-1, keepdim=True)
        by_x = by_x + k * c[3 - k].abs() * (d * x ** (k - 1) * r + through)
    by_c = torch.stack([(d * term).flatten().sum() for term in reversed(terms)])
    return [total * u.abs(), by_x, total * g.abs(), by_c[None], d.sum()[None, None]]


def _topk_sizes(unit: RowUnit, inputs: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    x, u = inputs
    mean, std = x.mean(-1, keepdim=True), x.std(-1, correction=0, keepdim=True)
    size = 1 + x.abs() + mean.abs() + QUANTILE * std
    active = (x > mean + QUANTILE * std).double()
    d = (g * u).abs() * size * active
    along = torch.where(std > 0, QUANTILE * (x - mean).abs() / std, 0)
    return [size * u.abs() * active, d + d.mean(-1, keepdim=True) * (1 + along), size * g.abs()]


_SIZES = {
    "rms_norm_gated": _norm_sizes,
    "polynorm_glu": _polynorm_sizes,
    "topk_geglu": _topk_sizes,
}


def check_call(unit: RowUnit, inputs: Sequence[Tensor], grad_out: Tensor, device: str) -> None:
    """Against float64, with what the arithmetic may lose of the size of what it adds up."""
    results = run(unit.ours(), inputs, grad_out, device)
    wide = [t.double() for t in inputs]
    exact = run(unit.oracle(), wide, grad_out.double())
    sizes = _SIZES[unit.name](unit, wide, grad_out.double())
    dtype = grad_out.dtype
    for i, (result, right, size) in enumerate(zip(results, exact, sizes, strict=True)):
        assert result.dtype == (inputs[i - 1] if i else grad_out).dtype
        if i < 3:
            check(result, right, ROW_UNIT_ULPS[dtype], lost=size * ROW_UNIT_LOST[dtype])
        else:
            rows = size.flatten(0, -2)
            total = rows.sum(0)
            allowed = allowed_sum(dtype, result.dtype, right, total, len(grad_out.flatten(0, -2)))
            assert ((result.double() - right).abs() <= allowed + total * ROW_UNIT_LOST[dtype]).all()
