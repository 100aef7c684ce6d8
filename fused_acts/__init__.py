"""Fused activations for transformer feed-forward blocks: the GLU family on CPU and CUDA."""

from typing import TYPE_CHECKING

from fused_acts import functional, nn, reference
from fused_acts._build_info import __version__, show_build
from fused_acts.dispatch import compile_as
from fused_acts.functional import GatedFunction, gated, variants

if TYPE_CHECKING:

    def __getattr__(name: str) -> GatedFunction: ...


# swiglu and the others: one function for each variant of the table.
globals().update(functional.FUNCTIONS)

__all__ = ["__version__", "compile_as", "gated", "nn", "reference", "show_build", "variants"]
__all__ += functional.FUNCTIONS
