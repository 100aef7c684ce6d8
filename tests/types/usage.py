"""What mypy and pyright say of code that uses the library; never run.

tools/check_types.py wants an error in each line marked so, and none elsewhere.
"""

import torch

import fused_acts
from fused_acts import nn, qwerty  # noqa: F401  # error
from fused_acts import swiglu as fused_swiglu

x = torch.ones(4, 8)
bias = torch.ones(8)

out: torch.Tensor = fused_acts.swiglu(x, x, beta=1.5, limit=7.0, gate_bias=bias, rounding="eager")
out = fused_acts.gated(x, variant="swiglu_oai", layout="interleaved", alpha=x[0], limit=None)
out = fused_acts.gelu(x, bias, out=x)
out = fused_acts.activation(x, "silu", beta=2)
out = fused_acts.maxout(x, 2) + fused_acts.softmax_glu(x, x) + fused_swiglu(x)
out = fused_acts.rms_norm_gated(x, x, x[0], gate="sigmoid", group_size=2)
out = fused_acts.polynorm_glu(x, x, x[0], x[0]) + fused_acts.topk_geglu(x, x, sparsity=0.9)
pair: fused_acts.Quantized = fused_acts.gated_quantized(
    x, x, format="mxfp8", scale_layout="swizzled", rounding="single", gate_bias=bias
)
out = fused_acts.gated_quantized(x, variant="gelu", format="fp8_tensor", scale=2.0, out=pair).values
names: tuple[str, ...] = fused_acts.variants() + fused_acts.activations()
text: str = fused_acts.show_build() + fused_acts.__version__
oracle: torch.Tensor = fused_acts.reference.gated(x, x, variant="geglu")
out = fused_acts.glu(x, dim=0, layout="up_gate") + nn.GatedActivation(dim=0)(x)
out = nn.GatedFFN(8, 16, "geglu", recompute="all")(x)
out = nn.GatedLinear(8, 16, layout="up_gate")(x)
out = fused_acts.nn.Activation("gelu_tanh")(x)

scaled = fused_acts.define("scaled", f="x * a", parameters={"a": 1.0}, reference=torch.mul)
out = scaled(x, a=2.0) + fused_acts.gated(x, x, variant=scaled.name, a=x[0])
out = fused_acts.activation(out, scaled.name, a=2) + nn.GatedFFN(8, 16, scaled.name, a=2.0)(x)
out = fused_acts.gated_quantized(x, variant=scaled.name, format="mxfp8", a=2.0).values
fused_acts.gated(x, variant=scaled.name, layout=3)  # error

fused_acts.swigul(1)  # error
fused_acts.swiglu(1)  # error
fused_acts.swiglu(x, x, alpha=1.0)  # error
fused_acts.swiglu(x, x, "gate_up")  # error
fused_acts.swiglu(x, layout="halves")  # error
fused_acts.geglu(x, rounding="twice")  # error
fused_acts.gelu(x, beta=1.0)  # error
fused_acts.gated(x, variant="swigul")  # error
fused_acts.gated_quantized(x)  # error
fused_acts.gated_quantized(x, format="fp8")  # error
fused_acts.gated_quantized(x, format="mxfp8", rounding="eager")  # error
fused_acts.activation(x, "swigul")  # error
nn.GatedFFN(8, 16, recompute="some")  # error
nn.GatedFFN(8, 16, "swigul")  # error
nn.GatedActivation("swiglu", "halves")  # error
