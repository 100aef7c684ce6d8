"""Fused activations as a kernel of the Hugging Face Hub: functions, and layers without state.

This is the part of the package fused-acts that models on the Hub need: units and activations with
their first derivatives, under torch.compile too. `_ops` is written by kernel-builder.
"""

from . import layers
from .units import (
    bilinear,
    gated,
    geglu,
    geglu_tanh,
    gelu,
    gelu_tanh,
    glu,
    quick_gelu,
    reglu,
    squared_relu,
    swiglu,
    swiglu_oai,
    swish,
)

__all__ = [
    "bilinear",
    "gated",
    "geglu",
    "geglu_tanh",
    "gelu",
    "gelu_tanh",
    "glu",
    "layers",
    "quick_gelu",
    "reglu",
    "squared_relu",
    "swiglu",
    "swiglu_oai",
    "swish",
]
