"""The tensors and options of a case."""

from typing import Any

import torch
from cases import pack, random, unpack
from fuzz_cases import Case, row_of
from fuzz_memory import place
from option_cases import parameters, real
from torch import Tensor

import fused_acts


class Operands:
    """What a case is called with, in its views, and the same as gate and up on the CPU, dense."""

    def __init__(self, case: Case, device: str):
        shape, dtype = (*case.rows, case.cols), case.dtype
        gate, up, grad_out = (random(*shape, dtype=dtype, seed=case.seed + i) for i in range(3))
        gate = (gate.double() * case.scale).to(dtype)
        self.case = case
        self.packed = case.kind == "unit" and case.layout != "separate"
        inputs = [self.turned(pack(gate, up, case.layout))] if self.packed else [gate, up]
        if case.kind == "activation":
            inputs = inputs[:1]
        self.inputs = [place(t, view, device) for t, view in zip(inputs, case.views, strict=False)]
        self.grad_out = place(self.turned(grad_out), case.views[2], device)
        self.vectors = {
            name: place(vector, case.views[1], device) for name, vector in self.made_vectors()
        }

    def turned(self, t: Tensor) -> Tensor:
        return t.movedim(-1, self.case.dim)

    def last(self, t: Tensor) -> Tensor:
        return (
            t.detach().cpu().movedim(self.case.dim, -1).clone(memory_format=torch.contiguous_format)
        )

    def made_vectors(self) -> Any:
        case, row = self.case, row_of(self.case)
        dtype = real(case.dtype) if case.wide else case.dtype
        for i, name in enumerate(case.biases):
            cols = 2 * case.cols if name == "bias" and case.kind == "unit" else case.cols
            yield name, random(cols, dtype=dtype, seed=case.seed + 7 + i)
        if case.parameter not in ("", "number"):
            for name in row.parameters:
                yield name, parameters(case.cols, dtype)[case.parameter]

        if case.row_weight:
            yield "weight", random(*case.rows, dtype=dtype, seed=case.seed + 17)

    def pair(self, inputs: list[Tensor]) -> list[Tensor]:
        """gate and up of what has the form of the inputs; of an activation, x alone."""
        rows = [self.last(t) for t in inputs]
        return [*unpack(rows[0], self.case.layout)] if self.packed else rows

    def numbers(self) -> dict[str, Any]:
        case, found = self.case, {}
        if case.parameter == "number":
            found |= dict.fromkeys(row_of(case).parameters, 0.7)
        if case.limit != "":
            found["limit"] = case.limit
        return found

    def how(self) -> dict[str, Any]:
        """What only the library is given."""
        case = self.case
        found: dict[str, Any] = {} if case.rounding == "single" else {"rounding": case.rounding}
        if self.packed:
            found["layout"] = case.layout
        if case.dim != -1:
            found["dim"] = case.dim
        return found

    def function(self, *inputs: Tensor, **options: Any) -> Tensor:
        if self.case.kind == "activation":
            return fused_acts.activation(*inputs, self.case.name, **options)
        return fused_acts.gated(*inputs, variant=self.case.name, **options)
