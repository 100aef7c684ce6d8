"""The activation of a module decides on the gated unit, and an unknown one is left alone."""

import pytest
import torch
from torch import nn
from transformers_cases import check_fused, check_kept, mlp_with, transformers

from fused_acts.integrations.transformers import patch

# By the name in a configuration. What is not here has no gated unit, or one with parameters.
VARIANTS = {
    "gelu": "geglu",
    "gelu_python": "geglu",
    "gelu_accurate": "geglu_tanh",
    "gelu_fast": "geglu_tanh",
    "gelu_new": "geglu_tanh",
    "gelu_python_tanh": "geglu_tanh",
    "gelu_pytorch_tanh": "geglu_tanh",
    "linear": "bilinear",
    "quick_gelu": "quick_geglu",
    "relu": "reglu",
    "relu2": "squared_reglu",
    "sigmoid": "glu",
    "silu": "swiglu",
    "swish": "swiglu",
    "tanh": "tanh_glu",
}
COMPOSED = {"gelu_python", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python_tanh"}


@pytest.mark.parametrize("name", transformers.activations.ACT2CLS)
def test_activations(name):
    mlp = mlp_with(transformers.activations.ACT2FN[name])
    if name == "xielu":
        assert patch(mlp) == {"act_fn": "xielu(alpha_p, alpha_n)"}
        return
    if name not in VARIANTS:
        kind = type(mlp.act_fn)
        return check_kept(
            mlp, f"has the activation {kind.__module__}.{kind.__name__}, which is not"
        )
    check_fused(mlp, f"{VARIANTS[name]}(gate_proj, up_proj)")


@pytest.mark.parametrize("name", VARIANTS)
def test_activations_bit_for_bit(name):
    mlp = mlp_with(transformers.activations.ACT2FN[name])
    if name in COMPOSED:
        return check_kept(mlp, f"does not compute {VARIANTS[name]} bit for bit", "eager")
    x = torch.randn(5, 32).bfloat16()
    before = mlp.bfloat16()(x)
    patch(mlp, rounding="eager")
    assert torch.equal(mlp(x), before)


@pytest.mark.parametrize(
    ("activation", "variant"),
    [
        (nn.GELU(), "geglu"),
        (nn.GELU(approximate="tanh"), "geglu_tanh"),
        (nn.SiLU(), "swiglu"),
        (nn.functional.silu, "swiglu"),
        (nn.functional.gelu, "geglu"),
        (nn.functional.relu, "reglu"),
    ],
)
def test_the_activation_counts_and_not_the_configuration(activation, variant):
    mlp = mlp_with()
    del mlp.act_fn
    mlp.act_fn = activation
    assert mlp.config.hidden_act == "silu"
    check_fused(mlp, f"{variant}(gate_proj, up_proj)")


class MySiLU(nn.SiLU):
    def forward(self, x):
        return super().forward(x) + 1


def test_activations_of_no_known_type():
    check_kept(mlp_with(MySiLU()), "has the activation .*MySiLU, which is not known")
    mlp = mlp_with()
    del mlp.act_fn
    mlp.act_fn = lambda x: x
    check_kept(mlp, "has the activation .*<lambda>, which is not known")


def test_hooks_on_the_activation():
    mlp = mlp_with()
    mlp.act_fn.register_forward_hook(lambda *_: None)
    check_kept(mlp, "has hooks on its activation")
