"""Modules around the functions."""

from fused_acts.nn.ffn import GatedFFN
from fused_acts.nn.gated import GatedActivation, GatedLinear

__all__ = ["GatedActivation", "GatedFFN", "GatedLinear"]
