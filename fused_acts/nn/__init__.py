"""Modules around the functions. Softmax is torch.nn's own, as `fused_acts.softmax` is torch's."""

from torch.nn import Softmax

from fused_acts.functional import refuse_script
from fused_acts.nn.activations import (
    ELU,
    GELU,
    Activation,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    Mish,
    PReLU,
    QuickGELU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    SquaredReLU,
    Swish,
    Tanh,
)
from fused_acts.nn.ffn import FFN, GatedFFN
from fused_acts.nn.gated import GatedActivation, GatedLinear
from fused_acts.nn.reductions import Maxout, SoftmaxGLU

__all__ = [
    "ELU",
    "FFN",
    "GELU",
    "Activation",
    "GatedActivation",
    "GatedFFN",
    "GatedLinear",
    "Hardsigmoid",
    "Hardswish",
    "LeakyReLU",
    "Maxout",
    "Mish",
    "PReLU",
    "QuickGELU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxGLU",
    "Softplus",
    "Softsign",
    "SquaredReLU",
    "Swish",
    "Tanh",
]

for _name in __all__:
    if _name != "Softmax":
        globals()[_name].__prepare_scriptable__ = refuse_script
