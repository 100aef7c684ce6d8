"""Fused activations on CPU and CUDA: gated units of feed-forward blocks, and activations alone."""

from fused_acts import functional, nn, reference
from fused_acts._autograd.dispatch import compile_as
from fused_acts._build_info import __version__, show_build
from fused_acts.definitions import define
from fused_acts.functional import (
    activation,
    activations,
    gated,
    maxout,
    softmax,
    softmax_glu,
    variants,
)
from fused_acts.quantized import Quantized, gated_quantized
from fused_acts.row_units import polynorm_glu, rms_norm_gated, topk_geglu

# swiglu, gelu and the others: one function for each row of the tables.
globals().update(functional.FUNCTIONS)

__all__ = [
    "Quantized",
    "__version__",
    "activation",
    "activations",
    "compile_as",
    "define",
    "gated",
    "gated_quantized",
    "maxout",
    "nn",
    "polynorm_glu",
    "reference",
    "rms_norm_gated",
    "show_build",
    "softmax",
    "softmax_glu",
    "topk_geglu",
    "variants",
]
__all__ += functional.FUNCTIONS


def __dir__() -> list[str]:
    return sorted(__all__)
