"""What a feed-forward block keeps for its backward pass: the bytes a token that are promised."""

from itertools import product

import pytest
import torch
from ffn_cases import LEVELS, measured
from torch import Tensor
from torch.nn.functional import linear, silu

from fused_acts.nn import GatedFFN

TOKENS, D_MODEL, D_FF = 3, 1024, 2816
DTYPE = torch.bfloat16
# bytes a token
PROMISED = {
    "none": 2 * (D_MODEL + 3 * D_FF),
    "product": 2 * (D_MODEL + 2 * D_FF),
    "all": 2 * D_MODEL,
}
FORMS = [
    {"packed": packed, "bias": bias, "recompute": level}
    for packed, bias, level in product((True, False), (True, False), LEVELS)
]
# Where it runs is of little matter: on CUDA the default form alone.
ON_CUDA = [pytest.param({"recompute": level}, "cuda", marks=pytest.mark.cuda) for level in LEVELS]


def block(device: str = "cpu", **form) -> tuple[GatedFFN, Tensor]:
    torch.manual_seed(0)
    ffn = GatedFFN(D_MODEL, D_FF, dtype=DTYPE, **form).to(device)
    x = torch.randn(TOKENS, D_MODEL, device=device).to(DTYPE).requires_grad_()
    return ffn, x


@pytest.mark.parametrize(
    ("form", "device"), [*((form, "cpu") for form in FORMS), *ON_CUDA], ids=str
)
def test_bytes_kept(form, device):
    ffn, x = block(device, **form)
    promised = PROMISED[form["recompute"]]
    assert measured(ffn, x, [*ffn.parameters()]) == (promised, promised)


def test_bytes_kept_by_torch():
    """What is compared with; and that the measurement counts what it should."""
    ffn, x = block(packed=False)

    def llama(x: Tensor) -> Tensor:
        gate, up = (linear(x, projection.weight) for projection in ffn.projections)
        return linear(silu(gate) * up, ffn.down_proj.weight)

    saved, _ = measured(llama, x, [*ffn.parameters()])
    assert saved == 2 * (D_MODEL + 4 * D_FF)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_frozen_weights_keep_no_more(form):
    ffn, x = block(**form)
    names = ["down_proj", *(name for name, _ in ffn.named_children() if name != "down_proj")]
    for chosen in product((True, False), repeat=1 + len(names)):
        x.requires_grad_(chosen[0])
        for name, need in zip(names, chosen[1:], strict=True):
            ffn.get_submodule(name).requires_grad_(need)
        if not any(chosen):
            continue
        most = PROMISED[form["recompute"]]
        if form["recompute"] == "none" and not chosen[1]:
            most -= 2 * D_FF  # the product serves the weight of down alone
        saved, held = measured(ffn, x, [*ffn.parameters()])
        assert saved <= most and held <= most, chosen


@pytest.mark.parametrize("level", LEVELS)
def test_the_input_is_not_copied(level):
    """Of what is kept, x as it came is its caller's."""
    ffn, x = block(recompute=level)
    for view in (x, x.view(1, TOKENS, 1, D_MODEL), x.view(TOKENS, 1, D_MODEL).transpose(0, 1)):
        saved, held = measured(lambda _, view=view: ffn(view), x, [*ffn.parameters(), x])
        assert saved == held == PROMISED[level] - 2 * D_MODEL
