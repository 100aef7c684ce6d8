"""The tables of gated units and of activations alone, with their functions in plain torch.

A gated unit is a product of two unary activations, out = f(gate) * g(up); an activation alone is
f(x). VARIANTS and ACTIVATIONS have a row for each, in the order of csrc/math/variants.h, and behind
them those of one's own, which _rows.py adds.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from fused_acts._formulas import (
    NO_CAP,
    elu,
    fatrelu,
    gelu,
    gelu_tanh,
    hardsigmoid,
    hardswish,
    identity,
    leaky_relu,
    mish,
    plus_one,
    relu,
    relu6,
    sigmoid,
    silu,
    situ,
    softcap,
    softplus,
    softsign,
    squared_relu,
    swish,
    tanh,
    torch_elu,
    torch_fatrelu,
    torch_gelu_tanh,
    torch_leaky_relu,
    torch_silu,
    torch_softplus,
    xielu,
)


class Variant(NamedTuple):
    """One gated unit, out = f(gate) * g(up), with its formula and the paper it comes from.

    f takes the parameter, if there is one, as its second argument, and so does eager; g takes the
    second one, or f takes both.
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
    f_takes: int = 1  # how many of the parameters; g takes the others
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
        eager=torch_gelu_tanh,
    ),
    "swiglu": Variant(
        swish,
        identity,
        "gate * sigmoid(beta * gate) * up",
        f"{_SHAZEER}; beta: {_RAMACHANDRAN}",
        {"beta": 1.0},
        limits=True,
        eager=torch_silu,
    ),
    "gtu": Variant(sigmoid, tanh, "sigmoid(gate) * tanh(up)", _OORD),
    "tanh_glu": Variant(tanh, identity, "tanh(gate) * up", _DAUPHIN),
    "leaky_reglu": Variant(
        leaky_relu,
        identity,
        "(gate if gate > 0 else negative_slope * gate) * up",
        _MAAS,
        {"negative_slope": 0.01},
        eager=torch_leaky_relu,
    ),
    "preglu": Variant(
        leaky_relu,
        identity,
        "(gate if gate > 0 else slope * gate) * up",
        _HE,
        {"slope": 0.25},
        eager=torch_leaky_relu,
    ),
    "elu_glu": Variant(
        elu,
        identity,
        "(gate if gate > 0 else alpha * (exp(gate) - 1)) * up",
        _CLEVERT,
        {"alpha": 1.0},
        eager=torch_elu,
    ),
    "squared_reglu": Variant(squared_relu, identity, "max(gate, 0)^2 * up", _SO),
    "quick_geglu": Variant(
        swish,
        identity,
        "gate * sigmoid(alpha * gate) * up",
        _HENDRYCKS,
        {"alpha": 1.702},
        eager=torch_silu,
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
        eager=torch_silu,
    ),
    "softplus_glu": Variant(
        softplus,
        identity,
        "log(1 + exp(beta * gate)) / beta * up",
        "the attention gate of Laguna, poolside 2026, in transformers; softplus: Dugas et al. 2001",
        {"beta": 1.0},
        eager=torch_softplus,
    ),
    "fatreglu": Variant(
        fatrelu,
        identity,
        "(gate if gate > threshold else 0) * up",
        "Kurtz et al. 2020; Song et al. 2024, ProSparse, https://arxiv.org/abs/2402.13516",
        {"threshold": 0.0},
        eager=torch_fatrelu,
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
        eager=torch_gelu_tanh,
    ),
    "swish": Activation(
        swish, "x * sigmoid(beta * x)", _RAMACHANDRAN, {"beta": 1.0}, eager=torch_silu
    ),
    "mish": Activation(mish, "x * tanh(log(1 + exp(x)))", _MISRA, eager=F.mish),
    "leaky_relu": Activation(
        leaky_relu,
        "x if x > 0 else negative_slope * x",
        "Maas et al. 2013",
        {"negative_slope": 0.01},
        eager=torch_leaky_relu,
    ),
    "prelu": Activation(
        leaky_relu, "x if x > 0 else slope * x", _HE_PRELU, {"slope": 0.25}, eager=torch_leaky_relu
    ),
    "elu": Activation(
        elu,
        "x if x > 0 else alpha * (exp(x) - 1)",
        "Clevert et al. 2016, https://arxiv.org/abs/1511.07289",
        {"alpha": 1.0},
        eager=torch_elu,
    ),
    "quick_gelu": Activation(
        swish,
        "x * sigmoid(alpha * x)",
        "Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415",
        {"alpha": 1.702},
        eager=torch_silu,
    ),
    "softplus": Activation(
        softplus, "log(1 + exp(beta * x)) / beta", _DUGAS, {"beta": 1.0}, eager=torch_softplus
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
TABLE_SIZE = len(VARIANTS) + len(ACTIVATIONS)  # without rows of one's own
ROWS: dict[int, Variant | Activation] = dict(enumerate((*VARIANTS.values(), *ACTIVATIONS.values())))


def of_gate(row: Variant | Activation, parameters: Sequence[Any]) -> Sequence[Any]:
    """Those of a row's parameters that f takes: of a unit not those that g takes."""
    return parameters[: row.f_takes] if isinstance(row, Variant) else parameters


def of_up(row: Variant, parameters: Sequence[Any]) -> Sequence[Any]:
    """Those that g takes."""
    return parameters[row.f_takes :]


def value_of(row: Variant | Activation, name: str, given: Any) -> Any:
    """The value of a parameter that may be given as None."""
    if given is not None:
        return given
    return NO_CAP if isinstance(row, Variant) and row.caps else row.parameters[name]
