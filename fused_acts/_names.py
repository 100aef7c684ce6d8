"""The names of the tables as types. Written by tools/write_stubs.py."""

from typing import Literal

VariantName = Literal[
    "glu",
    "bilinear",
    "reglu",
    "geglu",
    "geglu_tanh",
    "swiglu",
    "gtu",
    "tanh_glu",
    "leaky_reglu",
    "preglu",
    "elu_glu",
    "squared_reglu",
    "quick_geglu",
    "glu_relu",
    "swiglu_oai",
    "softplus_glu",
    "fatreglu",
]
ActivationName = Literal[
    "sigmoid",
    "tanh",
    "relu",
    "squared_relu",
    "gelu",
    "gelu_tanh",
    "swish",
    "mish",
    "leaky_relu",
    "prelu",
    "elu",
    "quick_gelu",
    "softplus",
    "relu6",
    "hardsigmoid",
    "hardswish",
    "softsign",
    "silu",
]
