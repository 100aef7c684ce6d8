"""Modules around the functions."""

from fused_acts.nn.activations import (
    ELU,
    GELU,
    Activation,
    LeakyReLU,
    Mish,
    PReLU,
    QuickGELU,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    SquaredReLU,
    Swish,
    Tanh,
)
from fused_acts.nn.ffn import GatedFFN
from fused_acts.nn.gated import GatedActivation, GatedLinear

__all__ = [
    "ELU",
    "GELU",
    "Activation",
    "GatedActivation",
    "GatedFFN",
    "GatedLinear",
    "LeakyReLU",
    "Mish",
    "PReLU",
    "QuickGELU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "SquaredReLU",
    "Swish",
    "Tanh",
]
