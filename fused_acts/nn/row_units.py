"""Gated units with statistics of whole rows, as modules, with the parameters that models have."""

import torch
from torch import Tensor, nn

from fused_acts import _checks, row_units


class RMSNormGated(nn.Module):
    """RMSNorm with a gate behind it, or before it; see `fused_acts.rms_norm_gated`.

    Takes the place, and the state dict, of the classes of that name in Hugging Face models: of
    Qwen3-Next and Qwen3.5 as it is, of Kimi Linear with gate="sigmoid", and of Mamba 2, Nemotron-H,
    Zamba 2, Bamba, Falcon-H1 and Granite 4 with norm_before_gate=False and their group_size.

    Args:
        hidden_size: the last dimension.
        eps: added to the mean.
        gate: "swish" (or "silu") or "sigmoid".
        norm_before_gate: whether x is normed, or x times the gate.
        group_size: how many neighbours have a mean of their own. None: all.
        device, dtype: of the parameter, weight [hidden_size], which starts as ones. It may be
            float32 beside 16-bit activations.

    Shapes: (x, gate) with [..., hidden_size] each to [..., hidden_size]. Without gate, the norm
    alone, by torch's functions.

    Raises TypeError for a size that is no integer, ValueError for an unknown gate or a group_size
    that does not divide hidden_size.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-6,
        gate: str = "swish",
        norm_before_gate: bool = True,
        group_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = _checks.integer("hidden_size", hidden_size)
        self.eps, self.norm_before_gate = eps, norm_before_gate
        self.gate, self.group_size = row_units.gate_name(gate), group_size
        if group_size is not None:
            row_units.group_count(self.hidden_size, group_size)
        self.weight = nn.Parameter(torch.empty(self.hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        if x.dim() == 0 or x.shape[-1] != self.hidden_size:
            raise ValueError(f"x: expected [..., {self.hidden_size}], got {tuple(x.shape)}")
        if gate is None:
            size = self.group_size or self.hidden_size
            groups = x.unflatten(-1, (self.hidden_size // size, size))
            normed = nn.functional.rms_norm(groups, (size,), None, self.eps)
            return normed.flatten(-2) * self.weight.to(x.dtype)
        return row_units.rms_norm_gated(
            x,
            gate,
            self.weight,
            self.eps,
            gate=self.gate,
            norm_before_gate=self.norm_before_gate,
            group_size=self.group_size,
        )

    def extra_repr(self) -> str:
        text = f"{self.hidden_size}, eps={self.eps}, gate={self.gate!r}"
        text += f", norm_before_gate={self.norm_before_gate}"
        return text if self.group_size is None else f"{text}, group_size={self.group_size}"


class PolyNormGLU(nn.Module):
    """A polynomial of norms as a gate, as in Motif; see `fused_acts.polynorm_glu`.

    Args:
        eps: added to each mean.
        device, dtype: of the parameters: weight [3], the coefficients, which start as 1/3, and bias
            [1], which starts as 0. They may be float32 beside 16-bit activations.

    Shapes: (gate, up) with [..., cols] each to [..., cols].
    """

    def __init__(
        self,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(3, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 1 / 3)
        nn.init.zeros_(self.bias)

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return row_units.polynorm_glu(gate, up, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class TopKGEGLU(nn.Module):
    """A GEGLU of the largest gates of each row, as in Gemma 3n; see `fused_acts.topk_geglu`.

    Args:
        sparsity: the part of gates to cut, at least 0 and below 1. At 0 nothing is cut: geglu_tanh.

    Shapes: (gate, up) with [..., cols] each to [..., cols].

    Raises ValueError for a sparsity out of range.
    """

    def __init__(self, sparsity: float = 0.95) -> None:
        super().__init__()
        row_units.check_sparsity(sparsity)
        self.sparsity = sparsity

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return row_units.topk_geglu(gate, up, self.sparsity)

    def extra_repr(self) -> str:
        return f"sparsity={self.sparsity}"
