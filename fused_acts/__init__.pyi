"""Types of the public names. Written by tools/write_stubs.py."""

from torch import Tensor

from fused_acts import functional as functional
from fused_acts import nn as nn
from fused_acts import reference as reference
from fused_acts._autograd.dispatch import compile_as as compile_as
from fused_acts._build_info import __version__ as __version__
from fused_acts._build_info import show_build as show_build
from fused_acts._call import Rounding
from fused_acts._layouts import Layout
from fused_acts._names import ActivationName, VariantName
from fused_acts.functional import activations as activations
from fused_acts.functional import maxout as maxout
from fused_acts.functional import softmax as softmax
from fused_acts.functional import softmax_glu as softmax_glu
from fused_acts.functional import variants as variants
from fused_acts.row_units import polynorm_glu as polynorm_glu
from fused_acts.row_units import rms_norm_gated as rms_norm_gated
from fused_acts.row_units import topk_geglu as topk_geglu

def gated(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    variant: VariantName = "swiglu",
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    gate_bias: Tensor | None = ...,
    up_bias: Tensor | None = ...,
    bias: Tensor | None = ...,
    weight: float = ...,
    block: int = ...,
    rounding: Rounding = ...,
    inplace_backward: bool = ...,
    limit: float | None = ...,
    beta: float | Tensor = ...,
    negative_slope: float | Tensor = ...,
    slope: float | Tensor = ...,
    alpha: float | Tensor = ...,
    threshold: float | Tensor = ...,
    linear_beta: float | Tensor | None = ...,
) -> Tensor: ...
def activation(
    x: Tensor,
    name: ActivationName,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = ...,
    beta: float | Tensor = ...,
    negative_slope: float | Tensor = ...,
    slope: float | Tensor = ...,
    alpha: float | Tensor = ...,
    alpha_p: float | Tensor = ...,
    alpha_n: float | Tensor = ...,
) -> Tensor: ...
def glu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def bilinear(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def reglu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    limit: float | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def geglu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    limit: float | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def geglu_tanh(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    limit: float | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def swiglu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    beta: float | Tensor = 1.0,
    limit: float | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def gtu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def tanh_glu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def leaky_reglu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    negative_slope: float | Tensor = 0.01,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def preglu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    slope: float | Tensor = 0.25,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def elu_glu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    alpha: float | Tensor = 1.0,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def squared_reglu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def quick_geglu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    alpha: float | Tensor = 1.702,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def glu_relu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def swiglu_oai(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout | None = None,
    dim: int = -1,
    out: Tensor | None = None,
    alpha: float | Tensor = 1.702,
    limit: float | None = 7.0,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def softplus_glu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    beta: float | Tensor = 1.0,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def fatreglu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    threshold: float | Tensor = 0.0,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def situ_glu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    beta: float | Tensor | None = 4.0,
    linear_beta: float | Tensor | None = 25.0,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def swiglu_step(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    layout: Layout = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    limit: float | None = 7.0,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float = 1.0,
    block: int = 1,
    rounding: Rounding = "single",
    inplace_backward: bool = False,
) -> Tensor: ...
def sigmoid(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def tanh(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def relu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def squared_relu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def gelu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def gelu_tanh(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def swish(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    beta: float | Tensor = 1.0,
    weight: float = 1.0,
) -> Tensor: ...
def mish(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def leaky_relu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    negative_slope: float | Tensor = 0.01,
    weight: float = 1.0,
) -> Tensor: ...
def prelu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    slope: float | Tensor = 0.25,
    weight: float = 1.0,
) -> Tensor: ...
def elu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    alpha: float | Tensor = 1.0,
    weight: float = 1.0,
) -> Tensor: ...
def quick_gelu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    alpha: float | Tensor = 1.702,
    weight: float = 1.0,
) -> Tensor: ...
def softplus(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    beta: float | Tensor = 1.0,
    weight: float = 1.0,
) -> Tensor: ...
def relu6(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def hardsigmoid(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def hardswish(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def softsign(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor: ...
def xielu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    alpha_p: float | Tensor = 0.8,
    alpha_n: float | Tensor = 0.8,
    weight: float = 1.0,
) -> Tensor: ...
def silu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    beta: float | Tensor = 1.0,
    weight: float = 1.0,
) -> Tensor: ...
