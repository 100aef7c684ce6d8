"""What is measured: feed-forward shapes of real models, in the layout each model really uses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TOKENS = (1, 16, 256, 4096)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
LAYOUTS = ("separate", "gate_up", "up_gate", "interleaved")


@dataclass(frozen=True)
class Model:
    """A model's gated unit. `layout` is "separate" where gate and up come as two tensors."""

    name: str
    d_ff: int
    variant: str
    layout: str


# d_ff is `intermediate_size` of the published configurations (DeepSeek-V3: `moe_intermediate_size`;
# GLM-130B: `inner-hidden-size`, with up * gelu(gate) on the halves of one projection).
MODELS = (
    Model("Llama-3 8B", 14336, "swiglu", "separate"),
    Model("Llama-3 8B merged", 14336, "swiglu", "gate_up"),
    Model("Gemma-3 12B", 15360, "geglu_tanh", "separate"),
    Model("Qwen3 8B", 12288, "swiglu", "separate"),
    Model("gpt-oss", 2880, "swiglu", "interleaved"),
    Model("DeepSeek-V3 expert", 2048, "swiglu", "separate"),
    Model("T5 v1.1 XXL", 10240, "geglu_tanh", "separate"),
    Model("GLM-130B", 32768, "geglu", "up_gate"),
    Model("Llama-3 70B", 28672, "swiglu", "separate"),
)


@dataclass(frozen=True)
class Case:
    """One measurement: a model's gated unit at one size, forward alone or forward and backward."""

    model: Model
    tokens: int
    dtype: torch.dtype
    backward: bool = False

    @property
    def elements(self) -> int:
        """Elements of the output: tokens * d_ff."""
        return self.tokens * self.model.d_ff

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one [tokens, d_ff] tensor."""
        return self.elements * self.dtype.itemsize

    @property
    def traffic_bytes(self) -> int:
        """The least that must move: forward 2 reads and 1 write, backward 3 reads and 2 writes."""
        return self.tensor_bytes * (8 if self.backward else 3)

    @property
    def direction(self) -> str:
        return "forward+backward" if self.backward else "forward"

    @property
    def dtype_name(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def __str__(self) -> str:
        size = f"{self.tokens} x {self.model.d_ff}"
        return f"{self.model.name} {self.model.variant} {self.dtype_name} {size} {self.direction}"


@dataclass(frozen=True)
class Inputs:
    """One set of operands."""

    tensors: tuple[Tensor, ...]  # (gate, up), each [tokens, d_ff], or (x,), [tokens, 2 * d_ff]
    grad_out: Tensor | None  # [tokens, d_ff], for the backward
    out: Tensor | None  # [tokens, d_ff], for the forward


def make_inputs(case: Case, device: torch.device, count: int = 1, seed: int = 0) -> list[Inputs]:
    """`count` sets of normally distributed inputs, each in memory of its own."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = (case.tokens, case.model.d_ff)
    packed = case.model.layout != "separate"
    shapes = [(case.tokens, 2 * case.model.d_ff)] if packed else [shape, shape]

    def normal(size: tuple[int, int]) -> Tensor:
        return torch.randn(size, generator=generator, device=device, dtype=case.dtype)

    def one() -> Inputs:
        tensors = tuple(normal(size).requires_grad_(case.backward) for size in shapes)
        if case.backward:
            return Inputs(tensors, normal(shape), None)
        # Written once here, so that the pages of a preallocated output exist before it is timed.
        return Inputs(tensors, None, torch.zeros(shape, device=device, dtype=case.dtype))

    return [one() for _ in range(count)]


def build_cases(
    models: Iterable[Model],
    tokens: Sequence[int],
    dtypes: Sequence[torch.dtype],
    directions: Sequence[bool],
    memory: float,
) -> list[Case]:
    """All combinations, tokens halved until a case fits `memory` bytes.

    Small sizes come first, so that a run that is cut short has lost few cases.
    """
    cases = [
        fit(Case(model, count, dtype, backward), memory)
        for dtype in dtypes
        for count in sorted(tokens)
        for model in models
        for backward in directions
    ]
    return list(dict.fromkeys(cases))


def fit(case: Case, memory: float) -> Case:
    # Inputs, outputs, gradients and the temporaries of the least frugal competitor.
    tensors_held = 14
    while case.tokens > 1 and case.tensor_bytes * tensors_held > memory:
        case = replace(case, tokens=case.tokens // 2)
    return case
