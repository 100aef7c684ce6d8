"""The names of the tables as types. Written by tools/write_stubs.py."""

from typing import Literal, NewType

OwnName = NewType("OwnName", str)  # of a row of one's own: the `name` of what define returned
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
    "situ_glu",
    "swiglu_step",
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
    "xielu",
    "silu",
]
