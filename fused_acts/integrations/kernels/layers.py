"""Layers whose forward takes the place of a module's own; they have no state, as `kernels` asks."""

from torch import Tensor, nn

from fused_acts import geglu_tanh, swiglu


class SwiGLUMLP(nn.Module):
    """down_proj(silu(gate_proj(x)) * up_proj(x)), with the projections of the adopting module."""

    can_torch_compile: bool = True

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return y


class GeGLUMLP(nn.Module):
    """down_proj(gelu(gate_proj(x)) * up_proj(x)), GELU by tanh, with the adopter's projections."""

    can_torch_compile: bool = True

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(geglu_tanh(self.gate_proj(x), self.up_proj(x)))
        return y
