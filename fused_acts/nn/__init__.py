"""Modules around the functions. Softmax is torch.nn's own, as `fused_acts.softmax` is torch's."""

from torch.nn import Softmax

from fused_acts.functional import refuse_script
from fused_acts.nn.activations import XIELU, Activation, QuickGELU, SquaredReLU, Swish
from fused_acts.nn.experts import GatedExperts
from fused_acts.nn.ffn import FFN, GatedFFN
from fused_acts.nn.gated import GatedActivation, GatedLinear
from fused_acts.nn.reductions import Maxout, SoftmaxGLU
from fused_acts.nn.row_units import PolyNormGLU, RMSNormGated, TopKGEGLU
from fused_acts.nn.torch_modules import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
)

__all__ = [
    "ELU",
    "FFN",
    "GELU",
    "XIELU",
    "Activation",
    "GatedActivation",
    "GatedExperts",
    "GatedFFN",
    "GatedLinear",
    "Hardsigmoid",
    "Hardswish",
    "LeakyReLU",
    "Maxout",
    "Mish",
    "PReLU",
    "PolyNormGLU",
    "QuickGELU",
    "RMSNormGated",
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
    "TopKGEGLU",
]

for _name in __all__:
    if _name != "Softmax":
        globals()[_name].__prepare_scriptable__ = refuse_script
