"""Are results right, and how many ulps are they off at worst? Against the float64 oracle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fused_acts import reference, tables

from .units import ALONE, BIAS, DEPTH, DTYPES, GATED, LINEAR, UNITS, Case, Pool
from .worker import positions

ROUNDINGS = 4.0  # eps of the dtype that a result may be off by: eager rounds several times
ARITHMETIC = 1e-3  # and what tables and short polynomials make of a function
COLS = 1024  # of the operands by which ulps are counted
NEAR = 4.0  # the gates of everyday
PATTERNS = 2**19  # numbers in a sample of float32


def exact(unit: str, operands: Sequence[Tensor]) -> Tensor:
    """In the dtype of the operands; 1.702 is the float32 next to it, as it is for all."""
    form = UNITS[unit].form
    name = {"silu": "swish", "gelu(x + bias)": "gelu"}.get(unit, unit)
    row = (tables.VARIANTS if form == GATED else tables.ACTIVATIONS)[name]
    options: dict[str, Any] = {n: torch.tensor(v).item() for n, v in row.parameters.items()}
    if form == GATED:
        return reference.gated(*operands, variant=name, **options)
    x = operands[0] + operands[1] if form == BIAS else operands[0]
    return reference.activation(x, name, **options)


class Oracle:
    """The exact results of a case at the elements that are looked at."""

    def __init__(self, case: Case, pool: Pool) -> None:
        self.dtype = DTYPES[case.dtype]
        at = positions(case.tokens * case.cols)
        first, second, third = pool.read(case.dtype)
        if case.form in (GATED, ALONE, BIAS):
            operands = [first[at].double()]
            if case.form != ALONE:
                operands.append(second[at % case.cols if case.form == BIAS else at].double())
            operands = [operand.requires_grad_(case.backward) for operand in operands]
            result = exact(case.unit, operands)
            self.results: Sequence[Tensor] = [result]
            if case.backward:
                self.results = torch.autograd.grad(result, operands, third[at].double())
            return
        row, col = (
            index[:, None] * DEPTH + torch.arange(DEPTH)
            for index in (at // case.cols, at % case.cols)
        )
        x, weight = first[row].double(), second[col].double() * DEPTH**-0.5
        product = (x * weight).sum(-1)
        if case.form == LINEAR:
            bias = third[at % case.cols].double() * DEPTH**-0.5
            self.results = [exact("gelu", [product + bias])]
        else:
            up = (x * third[col].double() * DEPTH**-0.5).sum(-1)
            self.results = [exact("swiglu", [product, up])]

    def fault(self, samples: Sequence[Tensor]) -> str:
        """What is wrong with these results; empty where nothing is."""
        for own, right in zip(samples, self.results, strict=True):
            if own.dtype != self.dtype or own.shape != right.shape:
                return f"{own.dtype} {list(own.shape)}"
            off = ((own.double() - right).abs() / (1 + right.abs())).max().item()
            if not off <= ROUNDINGS * torch.finfo(self.dtype).eps + ARITHMETIC:
                return f"off by {off:.1g}"
        return ""


@dataclass(frozen=True)
class Ulps:
    """The worst over all gates, where that is, and the worst over those of at most NEAR."""

    worst: float
    gate: float
    near: float


class Ruler:
    """Counts ulps over all numbers of a 16-bit dtype, or a dense sample of those of float32.

    up is in [1, 2) or (-2, -1], a bias 0. Not counted are results beyond the largest number and
    below twice the smallest normal one, for some flush those that are subnormal.
    """

    def __init__(self, dtype: str, seed: int) -> None:
        self.dtype = DTYPES[dtype]
        generator = torch.Generator().manual_seed(seed)
        if self.dtype.itemsize == 2:
            bits = torch.arange(-(2**15), 2**15).to(torch.int16)
        else:
            step = 2**32 // PATTERNS
            inside = torch.randint(step, (PATTERNS,), generator=generator)
            bits = (torch.arange(-(2**31), 2**31, step) + inside).to(torch.int32)
        numbers = bits.view(self.dtype)
        self.gate = torch.where(numbers.isfinite(), numbers, 0).view(-1, COLS)
        up = 1 + torch.rand(self.gate.shape, generator=generator)
        sign = torch.randint(2, self.gate.shape, generator=generator) * 2 - 1
        self.up = (up.clamp(max=1.99) * sign).to(self.dtype)

    def operands(self, unit: str) -> list[Tensor]:
        others = {GATED: [self.up], BIAS: [torch.zeros(COLS, dtype=self.dtype)]}
        return [self.gate, *others.get(UNITS[unit].form, [])]

    def exact(self, unit: str) -> Tensor:
        return exact(unit, [operand.double() for operand in self.operands(unit)])

    def ulps(self, result: Tensor, right: Tensor) -> Ulps:
        limits = torch.finfo(self.dtype)
        _, exponent = right.frexp()
        ulp = limits.eps * torch.exp2((exponent - 1).double())
        off = ((result.double() - right).abs() / ulp).nan_to_num(nan=torch.inf, posinf=torch.inf)
        size = right.abs()
        counted = (size <= limits.max) & (size >= 2 * limits.smallest_normal)
        off = torch.where(counted, off, 0.0)
        at = off.argmax()
        near = off[self.gate.abs() <= NEAR].max()
        return Ulps(off.flatten()[at].item(), self.gate.flatten()[at].item(), near.item())
