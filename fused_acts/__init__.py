"""Fused activations on CPU and CUDA: gated units of feed-forward blocks, and activations alone."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from fused_acts import functional, nn, reference, unary
from fused_acts._build_info import __version__, show_build
from fused_acts._maxout import maxout
from fused_acts._softmax_glu import softmax, softmax_glu
from fused_acts.dispatch import compile_as
from fused_acts.functional import gated, variants
from fused_acts.unary import activation, activations

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Tensor]: ...


# swiglu, gelu and the others: one function for each row of the tables.
globals().update(unary.FUNCTIONS | functional.FUNCTIONS)

__all__ = [
    "__version__",
    "activation",
    "activations",
    "compile_as",
    "gated",
    "maxout",
    "nn",
    "reference",
    "show_build",
    "softmax",
    "softmax_glu",
    "variants",
]
__all__ += [*unary.FUNCTIONS, *functional.FUNCTIONS]
