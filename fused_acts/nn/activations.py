"""Activations as modules: one for them all, and those that torch.nn does not have."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fused_acts import functional
from fused_acts._call import ACTIVATION_INDEX, NAMES, index_of
from fused_acts._names import ActivationName, OwnName
from fused_acts._rows import DEFINITIONS
from fused_acts.nn.gated import (
    check_options,
    kinds_of_learned,
    register_learned,
    reset_learned,
    with_learned,
)
from fused_acts.tables import ROWS


class Activation(nn.Module):
    """f(x + bias) as a module; see `fused_acts.activation`.

    Args:
        name: one of `fused_acts.activations()`.
        bias: whether to learn a bias, one value per channel, which starts at 0.
        num_channels: cols, for a bias or a parameter of f that is learned per channel.
        **options: weight, a number, and the parameters of f: each a number, "learned", one value
            for all channels, or "per_channel"; learned it is a Parameter of its name that starts at
            the default value.
        device, dtype: of what is learned.

    Shapes: [..., cols] to [..., cols].

    Raises ValueError for an unknown name or without num_channels where it is needed, TypeError for
    an option that the activation does not have.
    """

    bias: Tensor | None

    def __init__(
        self,
        name: ActivationName | OwnName,
        bias: bool = False,
        *,
        num_channels: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        variant = index_of("name", name, ACTIVATION_INDEX)
        self.name, self.num_channels = NAMES[variant], num_channels
        self._definition = DEFINITIONS.get(variant)
        self.learned = register_learned(self, ROWS[variant], options, num_channels, device, dtype)
        check_options(variant, "gate_up", options)
        self.options = options
        if bias and num_channels is None:
            raise ValueError("num_channels: expected a number for a bias per channel")
        value = torch.empty(num_channels or 0, device=device, dtype=dtype)
        self.register_parameter("bias", nn.Parameter(value) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gives what is learned the values that it starts at."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        reset_learned(self, ROWS[ACTIVATION_INDEX[self.name]])

    def forward(self, x: Tensor) -> Tensor:
        return functional.activation(x, self.name, self.bias, **with_learned(self))

    def extra_repr(self) -> str:
        parts: dict[str, Any] = {"name": self.name} if type(self) is Activation else {}
        if self.bias is not None:
            parts["bias"] = True
        parts |= self.options
        parts |= kinds_of_learned(self)
        if self.num_channels is not None:
            parts["num_channels"] = self.num_channels
        return ", ".join(f"{name}={value!r}" for name, value in parts.items())


class Swish(Activation):
    """x * sigmoid(beta * x). From Ramachandran et al. 2017, https://arxiv.org/abs/1710.05941.

    Args:
        beta: a number, "learned", one value for all channels, or "per_channel".
        num_channels: cols, for a beta per channel.
        device, dtype: of a beta that is learned.

    Shapes: [..., cols] to [..., cols].
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


class XIELU(nn.Module):
    """alpha_p * x^2 + x / 2 above 0, alpha_n * (exp(min(x, eps)) - 1 - x) + x / 2 elsewhere.

    alpha_p is softplus of the Parameter of that name, and alpha_n 1/2 more than softplus of its
    own: names, shapes and buffers are those of transformers' XIELUActivation. From Huang and Schlag
    2024, https://arxiv.org/abs/2411.13010, as in Apertus.

    Args:
        alpha_p_init, alpha_n_init: what alpha_p and alpha_n start at, above 0 and above 1/2.
        device, dtype: of the Parameters.

    Shapes: [..., cols] to [..., cols].

    Raises ValueError for a value to start at that is too small, or a checkpoint with a beta other
    than 1/2 or an eps other than -1e-6.
    """

    alpha_p: Tensor
    alpha_n: Tensor
    beta: Tensor
    eps: Tensor

    def __init__(
        self,
        alpha_p_init: float = 0.8,
        alpha_n_init: float = 0.8,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not alpha_p_init > 0:
            raise ValueError(f"alpha_p_init: expected a number above 0, got {alpha_p_init}")
        if not alpha_n_init > 0.5:
            raise ValueError(f"alpha_n_init: expected a number above 0.5, got {alpha_n_init}")
        self.alpha_p_init, self.alpha_n_init = alpha_p_init, alpha_n_init
        for name in ("alpha_p", "alpha_n"):
            value = torch.empty(1, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(value))
        for name, number in XIELU_NUMBERS.items():
            self.register_buffer(name, torch.tensor(number, device=device, dtype=dtype))
        self.register_load_state_dict_pre_hook(_check_xielu)  # type: ignore[no-untyped-call]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gives what is learned the values that it starts at."""
        nn.init.constant_(self.alpha_p, math.log(math.expm1(self.alpha_p_init)))
        nn.init.constant_(
            self.alpha_n, math.log(math.expm1(self.alpha_n_init - XIELU_NUMBERS["beta"]))
        )
        for name, number in XIELU_NUMBERS.items():
            nn.init.constant_(getattr(self, name), number)

    def forward(self, x: Tensor) -> Tensor:
        alpha_p, alpha_n = (
            nn.functional.softplus(self.alpha_p),
            nn.functional.softplus(self.alpha_n),
        )
        return functional.FUNCTIONS["xielu"](
            x, alpha_p=alpha_p, alpha_n=XIELU_NUMBERS["beta"] + alpha_n
        )


XIELU_NUMBERS = {"beta": 0.5, "eps": -1e-6}  # the kernel's own


def _check_xielu(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name, number in XIELU_NUMBERS.items():
        given = state.get(prefix + name)
        if given is None or given.is_meta:
            continue
        if not math.isclose(given.item(), number, rel_tol=0.01):
            raise ValueError(f"{name}: expected {number}, got {given.item()}")
