"""The MLPs of timm, fused where they stand. timm needs torchvision, which has to fit torch."""

import pytest
import torch
from tolerances import check_model
from torch import nn
from transformers_cases import check_parts

from fused_acts.integrations.timm import patch

timm = pytest.importorskip("timm", exc_type=ImportError)
layers = pytest.importorskip("timm.layers", exc_type=ImportError)

MLPS = {
    "Mlp": (layers.Mlp, {}, "gelu(fc1)"),
    "Mlp of images": (layers.Mlp, {"use_conv": True}, "gelu(fc1)"),
    "Mlp, tanh": (layers.Mlp, {"act_layer": layers.GELUTanh}, "gelu_tanh(fc1)"),
    "Mlp, norm": (layers.Mlp, {"norm_layer": nn.LayerNorm}, "gelu(fc1)"),
    "GluMlp": (layers.GluMlp, {}, "glu(fc1, up_gate)"),
    "SwiGLUPacked": (layers.SwiGLUPacked, {}, "swiglu(fc1, gate_up)"),
    "SwiGLU": (layers.SwiGLU, {}, "swiglu(fc1_g, fc1_x)"),
    "SwiGLU, norm": (layers.SwiGLU, {"norm_layer": nn.LayerNorm}, "swiglu(fc1_g, fc1_x)"),
}


@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("name", MLPS)
def test_mlps(name, drop):
    kind, options, report = MLPS[name]
    torch.manual_seed(1)
    shape = (2, 8, 3, 5) if "use_conv" in options else (2, 5, 8)
    check_parts(kind(8, 24, drop=drop, **options), {"": report}, torch.randn(shape))


@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("vit_tiny_patch16_224", "gelu(fc1)"),
        ("eva02_tiny_patch14_224", "swiglu(fc1, gate_up)"),
    ],
)
def test_models(name, report):
    torch.manual_seed(0)
    model = timm.create_model(name, depth=2, img_size=28, patch_size=14, num_classes=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    before = model(x := torch.randn(2, 3, 28, 28))
    assert patch(model) == {f"blocks.{i}.mlp": report for i in range(2)}
    check_model(model(x), before)


def test_a_gate_along_the_channels_of_images_is_left_alone():
    with pytest.warns(UserWarning, match="GluMlp does not compute glu"):
        assert not patch(layers.GluMlp(8, 24, use_conv=True)).fused
