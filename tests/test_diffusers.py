"""The building blocks of diffusers, fused where they stand."""

import pytest
import torch
from tolerances import check_model
from torch import nn
from transformers_cases import FusedCalls, check_parts

from fused_acts.integrations.diffusers import patch, unpatch

attention = pytest.importorskip("diffusers.models.attention", exc_type=ImportError)

# {activation_fn of FeedForward: what patch says}
REPORTS = {
    "gelu": "gelu(proj)",
    "gelu-approximate": "gelu_tanh(proj)",
    "geglu": "geglu(proj, up_gate)",
    "geglu-approximate": "quick_gelu(proj)",
    "swiglu": "swiglu(proj, up_gate)",
    "linear-silu": "swish(proj)",
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", REPORTS)
def test_feed_forward(kind, bias):
    torch.manual_seed(0)
    module = attention.FeedForward(8, activation_fn=kind, bias=bias, final_dropout=True)
    check_parts(module, {"net.0": REPORTS[kind]}, torch.randn(2, 5, 8))


def test_a_transformer_block():
    torch.manual_seed(0)
    block = attention.BasicTransformerBlock(16, 2, 8, activation_fn="geglu")
    check_parts(block, {"ff.net.0": "geglu(proj, up_gate)"}, torch.randn(2, 5, 16))


def test_bit_for_bit_with_a_gate():
    module = attention.FeedForward(8, activation_fn="swiglu").bfloat16()
    x = torch.randn(2, 5, 8).bfloat16()
    before = module(x)
    assert not patch(module, rounding="eager").kept
    assert torch.equal(module(x), before)


def test_another_projection():
    """As adapters put one in the place of proj."""
    module, x = attention.FeedForward(8, activation_fn="gelu"), torch.randn(2, 5, 8)
    patch(module)
    module.net[0].proj = nn.Sequential(module.net[0].proj, nn.Linear(32, 32))
    with FusedCalls() as calls:
        out = module(x)
    assert calls.count == 1
    unpatch(module)
    check_model(out, module(x))


def test_a_changed_class_is_left_alone():
    module = attention.FeedForward(8, activation_fn="geglu")

    class Scaled(type(module.net[0])):
        def forward(self, x):
            return 2 * super().forward(x)

    module.net[0].__class__ = Scaled
    with pytest.warns(UserWarning, match="FeedForward is no MLP of a known form"):
        assert list(patch(module).kept) == [""]
