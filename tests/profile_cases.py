"""What other producers of quantised results compute, from their formulas: the rows of the table in
docs/quantised.md. Products of bfloat16 numbers stand for the units: they are exact in float32, so
that nothing but the arithmetic of the quantisation is compared."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS, COLS = 32, 512
E4M3, E2M1 = 448.0, 6.0
TENSOR_SCALE = 2688 / 40.0  # of nvfp4: no power of two, for the largest magnitude 40
FLOAT32 = torch.finfo(torch.float32)


def operands() -> tuple[Tensor, Tensor]:
    """Groups of all sizes, some of zeros, some far below every floor."""
    torch.manual_seed(0)
    size = torch.randint(-12, 5, (ROWS, COLS // 16, 1)).float().exp2()
    size[3], size[4, ::2], size[5] = 0, 0, 2.0**-40
    gate, up = torch.randn(2, ROWS, COLS // 16, 16)
    return (gate * size).flatten(1).bfloat16(), up.flatten(1).bfloat16()


def largest(y: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """y in groups, in float32, and the largest magnitude of each."""
    y = y.float().unflatten(-1, (-1, columns))
    return y, y.abs().amax(-1, keepdim=True)


def single(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float32)


def divided(x: float, by: Tensor) -> Tensor:
    """In float32; `x / by` of torch is x times a rounded reciprocal."""
    return torch.div(single(x), by)


def e4m3(x: Tensor) -> Tensor:
    return x.clamp(-E4M3, E4M3).to(torch.float8_e4m3fn)


def e2m1(x: Tensor) -> Tensor:
    """Steps of 0.5 to 2, of 1 to 4, of 2 to 6; two in a byte, the first in its low half."""
    a = x.abs().clamp(max=E2M1)
    a = torch.where(a < 2, (2 * a).round() / 2, torch.where(a < 4, a.round(), 2 * (a / 2).round()))
    codes = torch.searchsorted(torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6]), a)
    codes = (codes + 8 * x.signbit()).to(torch.uint8)
    return codes[..., ::2] | codes[..., 1::2] << 4


def power_above(s: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(s)
    power = torch.ldexp(torch.ones_like(s), exponent - (mantissa == 0.5).int())
    return torch.where(s == 0, s, power)


def power_below(s: Tensor) -> Tensor:
    return torch.ldexp(torch.ones_like(s), torch.frexp(s).exponent - 1)


def exponents(s: Tensor) -> Tensor:
    """Of powers of two, as e8m0; below the normal numbers 0."""
    return (torch.frexp(s).exponent + 126).clamp(min=0).to(torch.uint8)


class Emulated(NamedTuple):
    values: Tensor
    scales: Tensor


class Profile(NamedTuple):
    arguments: dict[str, Any]
    emulate: Callable[[Tensor, Tensor], Emulated]  # of y in float32, and rounded to bfloat16


def grouped(columns: int, scale: Callable[[Tensor], Tensor], divide: bool = True) -> Any:
    """Values in groups by the scale of the largest magnitude: y / s, or y times 1 / s."""

    def emulate(y: Tensor) -> Emulated:
        y, a = largest(y, columns)
        s = scale(a)
        values = e4m3(y / s if divide else y * divided(1.0, s))
        return Emulated(values.flatten(1), s.squeeze(-1))

    return emulate


def mx(scale: Callable[[Tensor], Tensor]) -> Any:
    def emulate(y: Tensor) -> Emulated:
        y, a = largest(y, 32)
        s = scale(a)
        return Emulated(e4m3(y / s).flatten(1), exponents(s.squeeze(-1)))

    return emulate


# Where the arithmetic is that of gated_quantized, or differs in what never shows.
BLOCK = {"format": "fp8_block128"}
POWERS = {**BLOCK, "scale_rounding": "pow2"}
VLLM_FLOOR = {"rounding": "single", "amax_floor": 1 / 512}


def vllm_scale(a: Tensor) -> Tensor:
    return torch.maximum(a / E4M3, divided(1.0, single(E4M3 * 512)))


def by_reciprocal(a: Tensor) -> Tensor:
    return a * divided(1.0, single(E4M3))


def te_scale(a: Tensor) -> Tensor:
    """Of the power of two below 448 / a; 1 where all are 0."""
    factor = torch.where(a == 0, 1.0, torch.div(single(E4M3), a).clamp(max=FLOAT32.max))
    return divided(1.0, power_below(factor))


EXACT = {
    "vLLM silu_and_mul_per_block_quant": Profile(
        {**BLOCK, **VLLM_FLOOR}, lambda y, _: grouped(128, vllm_scale)(y)
    ),
    "vLLM silu_and_mul_per_token_quant": Profile(
        {"format": "fp8_row", **VLLM_FLOOR}, lambda y, _: grouped(COLS, vllm_scale)(y)
    ),
    "vLLM fused_silu_mul_per_token_group_quant": Profile(
        {**BLOCK, "amax_floor": 1e-10},
        lambda _, y: grouped(128, lambda a: a.clamp(min=1e-10) / E4M3)(y),
    ),
    "vLLM and SGLang, scales rounded": Profile(
        {**POWERS, "amax_floor": 1e-10},
        lambda _, y: grouped(
            128, lambda a: power_above(by_reciprocal(a.clamp(min=1e-10))), divide=False
        )(y),
    ),
    "DeepGEMM per_token_cast_to_fp8, scales rounded": Profile(
        {**POWERS, "amax_floor": 1e-4},
        lambda _, y: grouped(128, lambda a: power_above(a.clamp(min=1e-4) / E4M3), divide=False)(y),
    ),
    "DeepGEMM per_token_cast_to_fp8, gran_k=32": Profile(
        {"format": "mxfp8", "amax_floor": 1e-4},
        lambda _, y: mx(lambda a: power_above(a.clamp(min=1e-4) / E4M3))(y),
    ),
    "DeepGEMM mega-MoE": Profile(
        {"format": "mxfp8", "rounding": "single"},
        lambda y, _: mx(lambda a: power_above(by_reciprocal(a)).clamp(min=2.0**-127))(y),
    ),
    "TransformerEngine MXFP8": Profile(
        {"format": "mxfp8"},
        lambda _, y: mx(lambda a: power_above(by_reciprocal(a)).clamp(min=2.0**-127))(y),
    ),
    "TransformerEngine 1x128": Profile(POWERS, lambda _, y: grouped(128, te_scale)(y)),
}


# Where scales differ by at most an ulp, and values by a step, where a quotient is beside a
# midpoint.


def reciprocals(y: Tensor) -> Emulated:
    """SGLang's: a * (1/448), y * (448/a)."""
    y, a = largest(y, 128)
    a = a.clamp(min=1e-10)
    return Emulated(e4m3(y * divided(E4M3, a)).flatten(1), by_reciprocal(a).squeeze(-1))


def te_float32(y: Tensor) -> Emulated:
    y, a = largest(y, 128)
    factor = torch.where(a == 0, 1.0, torch.div(single(E4M3), a))
    return Emulated(e4m3(y * factor).flatten(1), divided(1.0, factor).squeeze(-1))


CLOSE = {
    "SGLang per_token_group_quant_8bit_v2": Profile(
        {**BLOCK, "amax_floor": 1e-10}, lambda _, y: reciprocals(y)
    ),
    "DeepGEMM per_token_cast_to_fp8": Profile(
        {**BLOCK, "amax_floor": 1e-4},
        lambda _, y: grouped(128, lambda a: a.clamp(min=1e-4) / E4M3, divide=False)(y),
    ),
    "TransformerEngine 1x128, float32 scales": Profile(BLOCK, lambda _, y: te_float32(y)),
}


# nvfp4: S is the factor, given; torchao takes 1 / S.


def nvfp4(block: Callable[[Tensor], Tensor], factor: Callable[[Tensor], Tensor]) -> Any:
    def emulate(y: Tensor) -> Emulated:
        y, a = largest(y, 16)
        scales = e4m3(block(a))
        d = scales.float()
        return Emulated(e2m1((y * factor(d)).flatten(1)), scales.squeeze(-1))

    return emulate


S = single(TENSOR_SCALE)
SIXTH = divided(1.0, single(E2M1))
INVERSE = divided(1.0, S)
TINY = torch.finfo(torch.float8_e4m3fn).tiny  # 2^-6
NVFP4 = {
    "vLLM silu_and_mul_nvfp4_quant": nvfp4(
        lambda a: S * (a * SIXTH),
        lambda d: torch.where(d == 0, 0.0, divided(1.0, d * INVERSE)),
    ),
    "TransformerEngine NVFP4": nvfp4(
        lambda a: a * (S * SIXTH),
        lambda d: divided(1.0, d * INVERSE).clamp(max=FLOAT32.max),
    ),
    "torchao nvfp4_quantize": nvfp4(
        lambda a: (a / E2M1 / INVERSE).clamp(min=TINY),
        lambda d: divided(1.0, INVERSE) / d,
    ),
}
