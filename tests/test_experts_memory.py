"""What experts keep for their backward pass: the bytes a token that are promised."""

from itertools import product

import pytest
import torch
from expert_cases import LEVELS, looped
from ffn_cases import measured
from torch import Tensor

from fused_acts.nn import GatedExperts

TOKENS, D_MODEL, D_FF, EXPERTS, K = 6, 512, 704, 8, 2
DTYPE = torch.bfloat16
# bytes a token
PROMISED = {
    "none": 2 * (D_MODEL + 3 * K * D_FF),
    "product": 2 * (D_MODEL + 2 * K * D_FF),
    "all": 2 * D_MODEL,
}
INTEGERS = 8 * K * TOKENS + 4 * EXPERTS  # bytes: the order of the tokens, where experts end


def mixture(**form) -> tuple[GatedExperts, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    module = GatedExperts(EXPERTS, D_MODEL, D_FF, dtype=DTYPE, **form)
    x = torch.randn(TOKENS, D_MODEL).to(DTYPE).requires_grad_()
    ids = torch.rand(TOKENS, EXPERTS).topk(K).indices
    return module, x, ids, torch.rand(TOKENS, K).requires_grad_()


def kept(function, x: Tensor, *others: Tensor) -> tuple[int, int]:
    """Bytes a token, saved and held; others are the caller's."""
    return measured(function, x, [*others])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_bytes_kept(level, bias):
    module, x, ids, weights = mixture(recompute=level, bias=bias)
    expected = PROMISED[level] + INTEGERS // TOKENS
    bytes_kept = kept(lambda x: module(x, ids, weights), x, ids, weights, *module.parameters())
    assert bytes_kept == (expected, expected)


def test_bytes_kept_by_torch():
    """What is compared with; and that the measurement counts what it should."""
    module, x, ids, weights = mixture()
    saved, _ = kept(
        lambda x: looped(module, x, ids, weights), x, ids, weights, *module.parameters()
    )
    assert saved > 2 * (D_MODEL + 4 * K * D_FF + K * D_MODEL)


@pytest.mark.parametrize("level", LEVELS)
def test_frozen_parts_keep_no_more(level):
    module, x, ids, weights = mixture(recompute=level)
    leaves = (x, weights, module.gate_up_proj, module.down_proj)
    for chosen in product((True, False), repeat=len(leaves)):
        for leaf, need in zip(leaves, chosen, strict=True):
            leaf.requires_grad_(need)
        if not any(chosen):
            continue
        most = PROMISED[level] + INTEGERS // TOKENS
        if level == "none" and not chosen[-1]:
            most -= 2 * K * D_FF  # the product serves the weight of down alone
        saved, held = kept(lambda x: module(x, ids, weights), x, ids, weights, *module.parameters())
        assert saved <= most and held <= most, chosen
