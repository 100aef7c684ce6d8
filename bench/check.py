"""Results are compared with a float64 oracle before anything is timed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import fused_acts

from .cases import Case, Inputs

ROWS = 32  # the oracle is slow: rows spread over each output, the first and the last among them
ROUNDINGS = 4.0  # eps of the dtype: eager rounds several times on its way
ARITHMETIC = 1e-5  # torch's own float32 GELU is off by 2e-6; its two forms differ by 5e-4


@dataclass(frozen=True)
class Error:
    """Difference from the oracle."""

    worst: float  # the largest |x - exact| / (1 + |exact|), in eps of the dtype
    rms: float  # |x - exact| / |exact| in the Euclidean norm
    acceptable: bool


class Oracle:
    """The exact results of a case, on some of its rows."""

    def __init__(self, case: Case, inputs: Inputs) -> None:
        count = min(ROWS, case.tokens)
        device = inputs.tensors[0].device
        self.rows = torch.linspace(0, case.tokens - 1, count, device=device).round().long()
        self.eps = torch.finfo(case.dtype).eps
        tensors = [t.detach()[self.rows].double().requires_grad_() for t in inputs.tensors]
        model = case.model
        layout = "gate_up" if len(tensors) == 2 else model.layout
        out = fused_acts.reference.gated(*tensors, variant=model.variant, layout=layout)
        self.exact: Sequence[Tensor] = [out.detach()]
        if inputs.grad_out is not None:
            self.exact = torch.autograd.grad(out, tensors, inputs.grad_out[self.rows].double())

    def error(self, results: Sequence[Tensor]) -> Error:
        """results: the whole outputs, or the gradients of the inputs in their order."""
        worst = rms = 0.0
        for result, exact in zip(results, self.exact, strict=True):
            difference = result.detach()[self.rows].double() - exact
            scaled = difference.abs() / (1 + exact.abs()) / self.eps
            worst = nan_max(worst, scaled.max().item())
            rms = nan_max(rms, (difference.norm() / exact.norm()).item())
        return Error(worst, rms, worst <= ROUNDINGS + ARITHMETIC / self.eps)  # false for NaN too


def nan_max(a: float, b: float) -> float:
    return b if b != b or b > a else a
