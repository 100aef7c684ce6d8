"""The tables of gated units and of activations alone, with their functions in plain torch.

A gated unit is a product of two unary activations, out = f(gate) * g(up); an activation alone is
f(x). VARIANTS and ACTIVATIONS have a row for each, in the order of csrc/variants.h. The functions
are written apart from the C++, accurate in float64, and can be differentiated to any order; the
gallery shows the derivative that a docstring states.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def identity(x: Tensor) -> Tensor:
    """x

    Derivative: 1
    """
    return x


def plus_one(x: Tensor) -> Tensor:
    """x + 1

    Derivative: 1
    """
    return x + 1


def relu(x: Tensor) -> Tensor:
    """max(x, 0), NaN stays NaN

    Derivative: 1 if x > 0 else 0
    """
    return torch.relu(x)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2

    Derivative: 2 * max(x, 0)
    """
    return torch.relu(x).square()


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6), NaN stays NaN

    Derivative: 1 if 0 < x < 6 else 0
    """
    return torch.where(x >= 6, 6.0, torch.relu(x))


def fatrelu(x: Tensor, threshold: float | Tensor) -> Tensor:
    """x above the threshold, 0 elsewhere

    Derivative: 1 if x > threshold else 0
    """
    # 0, but not without a gradient by the threshold
    return torch.where(x <= threshold, threshold - threshold, x)


def leaky_relu(x: Tensor, slope: float | Tensor) -> Tensor:
    """x above 0, slope * x elsewhere

    Derivative: 1 if x > 0 else slope
    """
    return torch.where(x > 0, x, slope * x)


def elu(x: Tensor, alpha: float | Tensor) -> Tensor:
    """x above 0, alpha * (exp(x) - 1) elsewhere

    Derivative: 1 if x > 0 else alpha * exp(x)
    """
    # The other branch of a where must not overflow, or its gradient is inf * 0. At 0 the second
    # derivative is torch's, 0.
    expm1 = torch.where(x == 0, x, torch.expm1(torch.where(x > 0, 0.0, x)))
    return torch.where(x > 0, x, alpha * expm1)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))

    Derivative: s * (1 - s), s = 1 / (1 + exp(-x))
    """
    return torch.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))

    Derivative: 1 - tanh(x)^2
    """
    return torch.tanh(x)


def hardsigmoid(x: Tensor) -> Tensor:
    """min(max(x + 3, 0), 6) / 6

    Derivative: 1 / 6 if abs(x) < 3 else 0
    """
    # torch's own has no second derivative, and a first one of float32.
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (x + 3) / 6))


def hardswish(x: Tensor) -> Tensor:
    """x * min(max(x + 3, 0), 6) / 6

    Derivative: 0 if x <= -3 else 1 if x >= 3 else x / 3 + 1 / 2
    """
    # The branch that is not taken must not overflow, or its gradient is inf * 0.
    inner = torch.where(x.abs() > 3, 0.0, x)
    return torch.where(x <= -3, -0.0, torch.where(x >= 3, x, inner * (inner + 3) / 6))


def softsign(x: Tensor) -> Tensor:
    """x / (1 + abs(x))

    Derivative: 1 / (1 + abs(x))^2
    """
    return x / (1 + x.abs())


def softcap(x: Tensor, cap: float | Tensor) -> Tensor:
    """cap * tanh(x / cap); no cap if it is 2^120 or more

    Derivative: 1 - tanh(x / cap)^2
    """
    if not isinstance(cap, Tensor):
        return x if abs(cap) >= NO_CAP else cap * torch.tanh(x / cap)
    none = cap.detach().abs() >= NO_CAP
    return torch.where(none, x, cap * torch.tanh(x / torch.where(none, 1.0, cap)))


# What stands for None, as large as every type of the arithmetic has it.
NO_CAP = 2.0**120


def situ(x: Tensor, beta: float | Tensor) -> Tensor:
    """beta * tanh(x / beta) * sigmoid(x)

    Derivative: s * (1 - tanh(x / beta)^2) + beta * tanh(x / beta) * s * (1 - s), s = sigmoid(x)
    """
    return softcap(x, beta) * torch.sigmoid(x)


def xielu(x: Tensor, alpha_p: float | Tensor, alpha_n: float | Tensor) -> Tensor:
    """alpha_p * x^2 + x / 2 above 0, alpha_n * (exp(min(x, -1e-6)) - 1 - x) + x / 2 elsewhere

    Derivative: 2 * alpha_p * x + 1 / 2 if x > 0 else alpha_n * (exp(x) - 1) + 1 / 2 if x <= -1e-6
    else 1 / 2 - alpha_n
    """
    above, below = torch.where(x > 0, x, 0.0), torch.where(x > 0, 0.0, x)
    inner = torch.where(below > -1e-6, -1e-6, below)
    negative = alpha_n * (torch.expm1(inner) - below) + below / 2
    return torch.where(x > 0, alpha_p * above * above + above / 2, negative)


def swish(x: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """x * sigmoid(beta * x)

    Derivative: s + beta * x * s * (1 - s), s = sigmoid(beta * x)
    """
    return x * torch.sigmoid(beta * x)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)

    Derivative: s + x * s * (1 - s), s = sigmoid(x)
    """
    return x * torch.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), where Phi is the cumulative distribution of the standard normal

    Derivative: (1 + erf(x / sqrt(2))) / 2 + x * exp(-x^2 / 2) / sqrt(2 * pi)
    """
    # erfc, not 1 + erf, which cancels in the negative tail.
    return x * torch.erfc(x * -math.sqrt(0.5)) * 0.5


def gelu_tanh(x: Tensor) -> Tensor:
    """x * (1 + tanh(u)) / 2, u = sqrt(2 / pi) * (x + 0.044715 * x^3)

    Derivative: s + x * s * (1 - s) * sqrt(8 / pi) * (1 + 0.134145 * x^2),
    s = sigmoid(sqrt(8 / pi) * (x + 0.044715 * x^3))
    """
    # (1 + tanh(u)) / 2 is sigmoid(2u), which does not cancel in the negative tail.
    return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))


def softplus(x: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta

    Derivative: 1 / (1 + exp(-beta * x))
    """
    z = beta * x
    # Not of |z|, whose gradient is 0 at 0. Both branches of the gradient stay finite.
    decay = torch.exp(torch.where(z > 0, -z, z))
    return (torch.where(z > 0, z, 0.0) + torch.log1p(decay)) / beta


def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x))

    Derivative: t + x * (1 - t^2) / (1 + exp(-x)), t = tanh(log(1 + exp(x)))
    """
    # With s = sigmoid(x) and u = sigmoid(-x), in which nothing cancels.
    u = torch.sigmoid(-x)
    return x * torch.sigmoid(x) * (1 + u) / (1 + u * u)


# What torch has in the place of f, which takes a parameter that is a number only.


def _torch_leaky_relu(x: Tensor, slope: float | Tensor) -> Tensor:
    return leaky_relu(x, slope) if isinstance(slope, Tensor) else F.leaky_relu(x, slope)


def _torch_elu(x: Tensor, alpha: float | Tensor) -> Tensor:
    return elu(x, alpha) if isinstance(alpha, Tensor) else F.elu(x, alpha)


def _torch_silu(x: Tensor, beta: float | Tensor) -> Tensor:
    return F.silu(x) if not isinstance(beta, Tensor) and beta == 1.0 else swish(x, beta)


def _torch_gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _torch_fatrelu(x: Tensor, threshold: float | Tensor) -> Tensor:
    if isinstance(threshold, Tensor):
        return fatrelu(x, threshold)
    return F.threshold(x, threshold, 0.0)


def _torch_softplus(x: Tensor, beta: float | Tensor) -> Tensor:
    return softplus(x, beta) if isinstance(beta, Tensor) else F.softplus(x, beta)


class Variant(NamedTuple):
    """One gated unit, out = f(gate) * g(up), with its formula and the paper it comes from.

    f takes the parameter, if there is one, as its second argument, and so does eager; g takes the
    second one.
    """

    f: Callable[..., Tensor]
    g: Callable[..., Tensor]
    formula: str
    source: str
    parameters: dict[str, float] = {}  # their names as options, and their values
    caps: bool = False  # whether a parameter may be None, for no cap: NO_CAP
    limits: bool = False  # whether there is an option `limit`
    limit: float | None = None  # its value
    limits_value: bool = False  # whether it is that of f(gate), not of gate
    layout: str = "gate_up"  # of packed inputs to the variant's own function
    # torch's own function in the place of f, as models call it and with its own rounding; None: f
    eager: Callable[..., Tensor] | None = None


class Activation(NamedTuple):
    """An activation alone, f(x); its fields are those of a Variant, but f takes both parameters."""

    f: Callable[..., Tensor]
    formula: str
    source: str
    parameters: dict[str, float] = {}
    eager: Callable[..., Tensor] | None = None


_DAUPHIN = "Dauphin et al. 2017, https://arxiv.org/abs/1612.08083"
_SHAZEER = "Shazeer 2020, https://arxiv.org/abs/2002.05202"
_OORD = "van den Oord et al. 2016, https://arxiv.org/abs/1606.05328"
_RAMACHANDRAN = "Ramachandran et al. 2017, https://arxiv.org/abs/1710.05941"
_MAAS = f"the leaky ReLU of Maas et al. 2013, in the form of {_SHAZEER}"
_HE = "the PReLU of He et al. 2015, https://arxiv.org/abs/1502.01852, in the form of Shazeer 2020"
_CLEVERT = "the ELU of Clevert et al. 2016, https://arxiv.org/abs/1511.07289, as in Shazeer 2020"
_SO = "the squared ReLU of So et al. 2021, https://arxiv.org/abs/2109.08668, as in Shazeer 2020"
_HENDRYCKS = "Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415, as in Shazeer 2020"
_OPENAI = "OpenAI 2025, gpt-oss, https://arxiv.org/abs/2508.10925"

VARIANTS = {
    "glu": Variant(sigmoid, identity, "sigmoid(gate) * up", _DAUPHIN),
    "bilinear": Variant(identity, identity, "gate * up", _SHAZEER),
    "reglu": Variant(relu, identity, "max(gate, 0) * up", _SHAZEER, limits=True),
    "geglu": Variant(
        gelu,
        identity,
        "gate * (1 + erf(gate / sqrt(2))) / 2 * up",
        _SHAZEER,
        limits=True,
        eager=F.gelu,
    ),
    "geglu_tanh": Variant(
        gelu_tanh,
        identity,
        "gate * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 * gate^3))) / 2 * up",
        _SHAZEER,
        limits=True,
        eager=_torch_gelu_tanh,
    ),
    "swiglu": Variant(
        swish,
        identity,
        "gate * sigmoid(beta * gate) * up",
        f"{_SHAZEER}; beta: {_RAMACHANDRAN}",
        {"beta": 1.0},
        limits=True,
        eager=_torch_silu,
    ),
    "gtu": Variant(sigmoid, tanh, "sigmoid(gate) * tanh(up)", _OORD),
    "tanh_glu": Variant(tanh, identity, "tanh(gate) * up", _DAUPHIN),
    "leaky_reglu": Variant(
        leaky_relu,
        identity,
        "(gate if gate > 0 else negative_slope * gate) * up",
        _MAAS,
        {"negative_slope": 0.01},
        eager=_torch_leaky_relu,
    ),
    "preglu": Variant(
        leaky_relu,
        identity,
        "(gate if gate > 0 else slope * gate) * up",
        _HE,
        {"slope": 0.25},
        eager=_torch_leaky_relu,
    ),
    "elu_glu": Variant(
        elu,
        identity,
        "(gate if gate > 0 else alpha * (exp(gate) - 1)) * up",
        _CLEVERT,
        {"alpha": 1.0},
        eager=_torch_elu,
    ),
    "squared_reglu": Variant(squared_relu, identity, "max(gate, 0)^2 * up", _SO),
    "quick_geglu": Variant(
        swish,
        identity,
        "gate * sigmoid(alpha * gate) * up",
        _HENDRYCKS,
        {"alpha": 1.702},
        eager=_torch_silu,
    ),
    "glu_relu": Variant(sigmoid, relu, "sigmoid(gate) * max(up, 0)", _DAUPHIN),
    "swiglu_oai": Variant(
        swish,
        plus_one,
        "min(gate, limit) * sigmoid(alpha * min(gate, limit)) * (clamp(up, -limit, limit) + 1)",
        _OPENAI,
        {"alpha": 1.702},
        limits=True,
        limit=7.0,
        layout="interleaved",
        eager=_torch_silu,
    ),
    "softplus_glu": Variant(
        softplus,
        identity,
        "log(1 + exp(beta * gate)) / beta * up",
        "the attention gate of Laguna, poolside 2026, in transformers; softplus: Dugas et al. 2001",
        {"beta": 1.0},
        eager=_torch_softplus,
    ),
    "fatreglu": Variant(
        fatrelu,
        identity,
        "(gate if gate > threshold else 0) * up",
        "Kurtz et al. 2020; Song et al. 2024, ProSparse, https://arxiv.org/abs/2402.13516",
        {"threshold": 0.0},
        eager=_torch_fatrelu,
    ),
    "situ_glu": Variant(
        situ,
        softcap,
        "beta * tanh(gate / beta) * sigmoid(gate) * linear_beta * tanh(up / linear_beta)",
        "Moonshot AI 2026, Kimi K3, and Inkling 2, in transformers",
        {"beta": 4.0, "linear_beta": 25.0},
        caps=True,
    ),
    "swiglu_step": Variant(
        silu,
        identity,
        "min(gate * sigmoid(gate), limit) * clamp(up, -limit, limit)",
        "StepFun 2026, Step 3.5 and 3.7, in transformers",
        limits=True,
        limit=7.0,
        limits_value=True,
        eager=F.silu,
    ),
}

_HE_PRELU = "He et al. 2015, https://arxiv.org/abs/1502.01852"
_MISRA = "Misra 2019, https://arxiv.org/abs/1908.08681"
_HOWARD = "Howard et al. 2019, MobileNetV3, https://arxiv.org/abs/1905.02244"
_DUGAS = "Dugas et al. 2001; Glorot et al. 2011"

ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, "1 / (1 + exp(-x))", "Verhulst 1845, the logistic function"),
    "tanh": Activation(tanh, "(exp(x) - exp(-x)) / (exp(x) + exp(-x))", "LeCun et al. 1998"),
    "relu": Activation(relu, "max(x, 0)", "Nair and Hinton 2010"),
    "squared_relu": Activation(
        squared_relu, "max(x, 0)^2", "So et al. 2021, https://arxiv.org/abs/2109.08668"
    ),
    "gelu": Activation(
        gelu,
        "x * (1 + erf(x / sqrt(2))) / 2",
        "Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415",
        eager=F.gelu,
    ),
    "gelu_tanh": Activation(
        gelu_tanh,
        "x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2",
        "Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415",
        eager=_torch_gelu_tanh,
    ),
    "swish": Activation(
        swish, "x * sigmoid(beta * x)", _RAMACHANDRAN, {"beta": 1.0}, eager=_torch_silu
    ),
    "mish": Activation(mish, "x * tanh(log(1 + exp(x)))", _MISRA, eager=F.mish),
    "leaky_relu": Activation(
        leaky_relu,
        "x if x > 0 else negative_slope * x",
        "Maas et al. 2013",
        {"negative_slope": 0.01},
        eager=_torch_leaky_relu,
    ),
    "prelu": Activation(
        leaky_relu, "x if x > 0 else slope * x", _HE_PRELU, {"slope": 0.25}, eager=_torch_leaky_relu
    ),
    "elu": Activation(
        elu,
        "x if x > 0 else alpha * (exp(x) - 1)",
        "Clevert et al. 2016, https://arxiv.org/abs/1511.07289",
        {"alpha": 1.0},
        eager=_torch_elu,
    ),
    "quick_gelu": Activation(
        swish,
        "x * sigmoid(alpha * x)",
        "Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415",
        {"alpha": 1.702},
        eager=_torch_silu,
    ),
    "softplus": Activation(
        softplus, "log(1 + exp(beta * x)) / beta", _DUGAS, {"beta": 1.0}, eager=_torch_softplus
    ),
    "relu6": Activation(
        relu6,
        "min(max(x, 0), 6)",
        "Krizhevsky 2010, Convolutional deep belief networks",
        eager=F.relu6,
    ),
    "hardsigmoid": Activation(
        hardsigmoid, "min(max(x + 3, 0), 6) / 6", _HOWARD, eager=F.hardsigmoid
    ),
    "hardswish": Activation(hardswish, "x * min(max(x + 3, 0), 6) / 6", _HOWARD, eager=F.hardswish),
    "softsign": Activation(softsign, "x / (1 + abs(x))", "Turian et al. 2009"),
    "xielu": Activation(
        xielu,
        "alpha_p * x^2 + x / 2 if x > 0 else alpha_n * (exp(min(x, -1e-6)) - 1 - x) + x / 2",
        "Huang and Schlag 2024, https://arxiv.org/abs/2411.13010, as in Apertus",
        {"alpha_p": 0.8, "alpha_n": 0.8},
    ),
}
ALIASES = {"silu": "swish"}
# By the index that the operators take.
ROWS: tuple[Variant | Activation, ...] = (*VARIANTS.values(), *ACTIVATIONS.values())


def of_gate(row: Variant | Activation, parameters: Sequence[Any]) -> Sequence[Any]:
    """Those of a row's parameters that f takes: of a unit not the second, which g takes."""
    return parameters[:1] if isinstance(row, Variant) else parameters


def of_up(row: Variant, parameters: Sequence[Any]) -> Sequence[Any]:
    """Those that g takes."""
    return parameters[1:]


def value_of(row: Variant | Activation, name: str, given: Any) -> Any:
    """The value of a parameter that may be given as None."""
    if given is not None:
        return given
    return NO_CAP if isinstance(row, Variant) and row.caps else row.parameters[name]
