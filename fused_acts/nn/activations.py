"""Activations as modules: those that torch.nn has under its names, and one for them all.

The former are torch.nn's own classes, with their arguments, attributes and state, whose forward is
the library's kernel. They allocate their output: inplace=True is refused.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fused_acts import options, unary
from fused_acts.nn.gated import refuse_tensors, register_learned
from fused_acts.tables import ACTIVATIONS


class Activation(nn.Module):
    """f(x + bias) as a module; see `fused_acts.activation`.

    Args:
        name: one of `fused_acts.activations()`.
        bias: whether to learn a bias, one value per channel, which starts at 0.
        num_channels: cols, for a bias or a parameter of f that is learned per channel.
        **options: the parameter of f, where it has one: a number, "learned", one value for all
            channels, or "per_channel"; learned it is a Parameter of its name that starts at the
            default value.
        device, dtype: of what is learned.

    Shapes: [..., cols] to [..., cols].

    Raises ValueError for an unknown name or without num_channels where it is needed, TypeError for
    an option that the activation does not have.
    """

    bias: Tensor | None

    def __init__(
        self,
        name: str,
        bias: bool = False,
        *,
        num_channels: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **given: Any,
    ) -> None:
        super().__init__()
        self.name, self.num_channels = options.activation_name(name), num_channels
        row = ACTIVATIONS[self.name]
        self.learned = register_learned(self, row, given, num_channels, device, dtype)
        options.parse_activation(name, None, given)
        refuse_tensors(given)
        self.options = given
        if bias and num_channels is None:
            raise ValueError("num_channels: expected a number for a bias per channel")
        value = torch.zeros(num_channels or 0, device=device, dtype=dtype)
        self.register_parameter("bias", nn.Parameter(value) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        given = self.options
        if self.learned is not None:
            given = {**given, self.learned: getattr(self, self.learned)}
        return unary.activation(x, self.name, self.bias, **given)

    def extra_repr(self) -> str:
        parts: dict[str, Any] = {"name": self.name} if type(self) is Activation else {}
        if self.bias is not None:
            parts["bias"] = True
        parts |= self.options
        if self.learned is not None:
            parts[self.learned] = "per_channel" if getattr(self, self.learned).dim() else "learned"
        if self.num_channels is not None:
            parts["num_channels"] = self.num_channels
        return ", ".join(f"{name}={value!r}" for name, value in parts.items())


class Swish(Activation):
    """x * sigmoid(beta * x). From Ramachandran et al. 2017, https://arxiv.org/abs/1710.05941.

    beta: a number, "learned", one value for all channels, or "per_channel", one for each of
    num_channels. Otherwise as `Activation`.
    """

    def __init__(
        self,
        beta: float | str = 1.0,
        num_channels: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__("swish", num_channels=num_channels, device=device, dtype=dtype, beta=beta)


class SquaredReLU(Activation):
    """max(x, 0)^2. From So et al. 2021, https://arxiv.org/abs/2109.08668."""

    def __init__(self) -> None:
        super().__init__("squared_relu")


class QuickGELU(Activation):
    """x * sigmoid(1.702 * x). From Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415."""

    def __init__(self) -> None:
        super().__init__("quick_gelu")


def _not_inplace(inplace: bool) -> bool:
    if inplace:
        raise ValueError("inplace: expected False, got True; call the function with out= instead")
    return inplace


class Sigmoid(nn.Sigmoid):
    """torch.nn.Sigmoid by `fused_acts.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return unary.activation(input, "sigmoid")


class Tanh(nn.Tanh):
    """torch.nn.Tanh by `fused_acts.tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        return unary.activation(input, "tanh")


class ReLU(nn.ReLU):
    """torch.nn.ReLU by `fused_acts.relu`. Raises ValueError for inplace=True."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(_not_inplace(inplace))

    def forward(self, input: Tensor) -> Tensor:
        return unary.activation(input, "relu")


class LeakyReLU(nn.LeakyReLU):
    """torch.nn.LeakyReLU by `fused_acts.leaky_relu`. Raises ValueError for inplace=True."""

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__(negative_slope, _not_inplace(inplace))

    def forward(self, input: Tensor) -> Tensor:
        return unary.activation(input, "leaky_relu", negative_slope=self.negative_slope)


class ELU(nn.ELU):
    """torch.nn.ELU by `fused_acts.elu`. Raises ValueError for inplace=True."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(alpha, _not_inplace(inplace))

    def forward(self, input: Tensor) -> Tensor:
        return unary.activation(input, "elu", alpha=self.alpha)


class SiLU(nn.SiLU):
    """torch.nn.SiLU by `fused_acts.silu`. Raises ValueError for inplace=True."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(_not_inplace(inplace))

    def forward(self, input: Tensor) -> Tensor:
        return unary.activation(input, "swish")


class Mish(nn.Mish):
    """torch.nn.Mish by `fused_acts.mish`. Raises ValueError for inplace=True."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(_not_inplace(inplace))

    def forward(self, input: Tensor) -> Tensor:
        return unary.activation(input, "mish")


class GELU(nn.GELU):
    """torch.nn.GELU by `fused_acts.gelu`, or with approximate="tanh" `fused_acts.gelu_tanh`.

    Raises ValueError for another approximation.
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise options.unknown("approximate", approximate, ("none", "tanh"))
        super().__init__(approximate)

    def forward(self, input: Tensor) -> Tensor:
        return unary.activation(input, "gelu" if self.approximate == "none" else "gelu_tanh")


class Softplus(nn.Softplus):
    """torch.nn.Softplus by `fused_acts.softplus`.

    It is computed everywhere, also above the threshold from which torch's is linear; from the usual
    one, 20, upwards they differ by 1e-10 of the value. Raises ValueError for a lower one.
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        if threshold < 20.0:
            raise ValueError(f"threshold: expected 20 or more, got {threshold}")
        super().__init__(beta, threshold)

    def forward(self, input: Tensor) -> Tensor:
        return unary.activation(input, "softplus", beta=self.beta)


class PReLU(nn.PReLU):
    """torch.nn.PReLU by `fused_acts.prelu`, its channels in dimension 1 as there.

    The kernel has them in the last dimension: of [rows, cols] they are, anything else is moved, in
    copies. Activation("prelu", slope="per_channel") has them there always.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.numel() == 1 or input.dim() <= 2:
            return unary.activation(input, "prelu", slope=self.weight)
        out = unary.activation(input.movedim(1, -1), "prelu", slope=self.weight)
        return out.movedim(-1, 1).contiguous()
