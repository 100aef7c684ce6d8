"""Layers whose forward replaces that of a model's own; they have no state, as the Hub asks."""

from torch import Tensor, nn

from .units import geglu, geglu_tanh, gelu, gelu_tanh, quick_gelu, swiglu, swish


class SiluAndMul(nn.Module):
    """[..., 2 * cols] -> [..., cols]: silu of the first half, times the second."""

    can_torch_compile: bool = True

    def forward(self, x: Tensor) -> Tensor:
        return swiglu(x)


class GeluAndMul(nn.Module):
    """[..., 2 * cols] -> [..., cols]: GELU of the first half, times the second."""

    can_torch_compile: bool = True

    def forward(self, x: Tensor) -> Tensor:
        return geglu(x)


class GeluTanhAndMul(nn.Module):
    """[..., 2 * cols] -> [..., cols]: GELU by tanh of the first half, times the second."""

    can_torch_compile: bool = True

    def forward(self, x: Tensor) -> Tensor:
        return geglu_tanh(x)


class Silu(nn.Module):
    """x * sigmoid(x)"""

    can_torch_compile: bool = True

    def forward(self, input: Tensor) -> Tensor:
        return swish(input)


class Gelu(nn.Module):
    """GELU by the normal distribution."""

    can_torch_compile: bool = True

    def forward(self, input: Tensor) -> Tensor:
        return gelu(input)


class GeluTanh(nn.Module):
    """GELU by tanh."""

    can_torch_compile: bool = True

    def forward(self, input: Tensor) -> Tensor:
        return gelu_tanh(input)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 * x)"""

    can_torch_compile: bool = True

    def forward(self, input: Tensor) -> Tensor:
        return quick_gelu(input)


class SwiGLUMLP(nn.Module):
    """down_proj(silu(gate_proj(x)) * up_proj(x)), with the projections of the adopting layer."""

    can_torch_compile: bool = True

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class GeGLUMLP(nn.Module):
    """down_proj(gelu(gate_proj(x)) * up_proj(x)), GELU by tanh, with the same projections."""

    can_torch_compile: bool = True

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(geglu_tanh(self.gate_proj(x), self.up_proj(x)))
