"""What every competitor is asked for: units as one writes them with torch, and their operands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DEPTH = 1024  # features that go into a linear layer
OPERANDS = 3  # at most, of the size [tokens, cols], gradients included

GATED, ALONE, BIAS, LINEAR, GATED_LINEAR = "gated", "alone", "bias", "linear", "gated linear"


@dataclass(frozen=True)
class Unit:
    """`eager` is what the time of others is relative to.

    Its arguments, by form: gated (gate, up); alone (x); bias (x, bias); linear (x, weight, bias);
    gated linear (x, gate_weight, up_weight).
    """

    name: str
    form: str
    eager: Callable[..., Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def swiglu_oai(gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return quick_gelu(gate) * (up + 1)


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


UNITS = {
    unit.name: unit
    for unit in (
        Unit("swiglu", GATED, lambda gate, up: F.silu(gate) * up),
        Unit("geglu", GATED, lambda gate, up: F.gelu(gate) * up),
        Unit("geglu_tanh", GATED, lambda gate, up: gelu_tanh(gate) * up),
        Unit("reglu", GATED, lambda gate, up: F.relu(gate) * up),
        Unit("quick_geglu", GATED, lambda gate, up: quick_gelu(gate) * up),
        Unit("swiglu_oai", GATED, swiglu_oai),
        Unit("silu", ALONE, F.silu),
        Unit("gelu", ALONE, F.gelu),
        Unit("gelu_tanh", ALONE, gelu_tanh),
        Unit("quick_gelu", ALONE, quick_gelu),
        Unit("gelu(x + bias)", BIAS, lambda x, bias: F.gelu(x + bias)),
        Unit("gelu(linear)", LINEAR, lambda x, w, b: F.gelu(F.linear(x, w, b))),
        Unit(
            "swiglu(linear)", GATED_LINEAR, lambda x, g, u: F.silu(F.linear(x, g)) * F.linear(x, u)
        ),
    )
}


@dataclass(frozen=True)
class Case:
    """One unit at one size, forward or forward with backward."""

    unit: str
    dtype: str
    tokens: int
    cols: int
    backward: bool = False

    @property
    def form(self) -> str:
        return UNITS[self.unit].form

    @property
    def direction(self) -> str:
        return "forward+backward" if self.backward else "forward"

    @property
    def tensor_bytes(self) -> int:
        return self.tokens * self.cols * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.unit} {self.dtype} {self.tokens} x {self.cols} {self.direction}"


class Pool:
    """Files of normally distributed numbers, one a dtype, which operands are taken from."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count  # count: of each operand

    def write(self, dtypes: Sequence[str], seed: int) -> None:
        numbers = torch.randn(OPERANDS * self.count, generator=torch.Generator().manual_seed(seed))
        for name in dtypes:
            typed = numbers.to(DTYPES[name])
            typed.view(torch.uint8).numpy().tofile(self.folder / name)

    def read(self, name: str) -> list[Tensor]:
        size, dtype = OPERANDS * self.count, DTYPES[name]
        path = str(self.folder / name)
        return list(torch.from_file(path, shared=True, size=size, dtype=dtype).split(self.count))

    def operands(self, case: Case) -> tuple[list[Tensor], Tensor | None]:
        """Those of the unit, and grad_out for a backward, in memory of their own."""
        parts = self.read(case.dtype)

        def take(index: int, *shape: int) -> Tensor:
            return parts[index][: torch.Size(shape).numel()].clone().view(shape)

        rows, weight = (case.tokens, case.cols), (case.cols, DEPTH)
        if case.form == GATED:
            tensors = [take(0, *rows), take(1, *rows)]
        elif case.form == ALONE:
            tensors = [take(0, *rows)]
        elif case.form == BIAS:
            tensors = [take(0, *rows), take(1, case.cols)]
        else:
            second = (case.cols,) if case.form == LINEAR else weight
            tensors = [take(0, case.tokens, DEPTH), take(1, *weight), take(2, *second)]
            for each in tensors[1:]:
                each.mul_(DEPTH**-0.5)
        return tensors, take(2, *rows) if case.backward else None


def pool_size(tokens: Sequence[int], cols: int) -> int:
    """Numbers that the largest operand needs."""
    return max(max(tokens), DEPTH) * max(cols, DEPTH)
