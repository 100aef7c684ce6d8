"""save= in the feed-forward blocks and the experts: gradients of what is kept, and its bytes."""

from itertools import product

import expert_cases
import ffn_cases
import pytest
import torch
from cases import random, same_bits
from save_cases import DTYPES, SAVE, Exchanged, packed_stands_for, stands_for

from fused_acts.nn import FFN, GatedExperts, GatedFFN

D_MODEL, D_FF, TOKENS = 24, 136, 6
LEVELS = ("product", "none")


def like(module: torch.nn.Module, kind, *sizes, **form) -> torch.nn.Module:
    """The same without save, from its checkpoint."""
    other = kind(*sizes, **form)
    other.load_state_dict(module.state_dict())
    return other


def check(actual, expected) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert same_bits(a, e)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("packed", "bias", "level"), [*product((True, False), (True, False), LEVELS)], ids=str
)
def test_gated_ffn(packed, bias, level, dtype):
    torch.manual_seed(0)
    form = {"packed": packed, "bias": bias, "recompute": level, "dtype": dtype}
    ffn = GatedFFN(D_MODEL, D_FF, **form, **SAVE)
    exact = like(ffn, GatedFFN, D_MODEL, D_FF, **form)
    x, grad_y = (random(2, TOKENS // 2, D_MODEL, dtype=dtype, seed=seed) for seed in (1, 2))
    if packed:
        exchanged = Exchanged((TOKENS, 2 * D_FF), 1, packed_stands_for("gate_up"))
    else:
        exchanged = Exchanged((TOKENS, D_FF), 2)
    with exchanged:
        expected = ffn_cases.gradients(exact, exact, x, grad_y)
    check(ffn_cases.gradients(ffn, ffn, x, grad_y), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_ffn(level):
    torch.manual_seed(0)
    form = {"recompute": level, "dtype": torch.bfloat16}
    ffn = FFN(D_MODEL, D_FF, **form, **SAVE)
    exact = like(ffn, FFN, D_MODEL, D_FF, **form)
    x, grad_y = (random(TOKENS, D_MODEL, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    with Exchanged((TOKENS, D_FF), 1, stands_for):
        expected = ffn_cases.gradients(exact, exact, x, grad_y)
    check(ffn_cases.gradients(ffn, ffn, x, grad_y), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layout", "level"), [*product((("gate_up", 1), ("interleaved", 8)), LEVELS)], ids=str
)
def test_experts(layout, level, dtype):
    torch.manual_seed(0)
    name, block = layout
    form = {"layout": name, "block": block, "bias": True, "recompute": level, "dtype": dtype}
    sizes = expert_cases.EXPERTS, D_MODEL, D_FF
    module = GatedExperts(*sizes, **form, **SAVE)
    exact = like(module, GatedExperts, *sizes, **form)
    x, grad_y = (random(TOKENS, D_MODEL, dtype=dtype, seed=seed) for seed in (1, 2))
    ids, weights = expert_cases.routed(TOKENS, lowest=-1)  # some are of no expert
    routed = ids, weights.float()
    rows = TOKENS * expert_cases.K
    with Exchanged((rows, 2 * D_FF), 1, packed_stands_for(name, block)):
        expected = expert_cases.gradients(exact, exact, x, *routed, grad_y)
    check(expert_cases.gradients(module, module, x, *routed, grad_y), expected)


def test_a_graph_runs_backward_again():
    torch.manual_seed(0)
    ffn = GatedFFN(D_MODEL, D_FF, dtype=torch.bfloat16, **SAVE)
    y = ffn(random(TOKENS, D_MODEL, dtype=torch.bfloat16, seed=1))
    first = torch.autograd.grad(y.sum(), ffn.parameters(), retain_graph=True)
    check(first, torch.autograd.grad(y.sum(), ffn.parameters()))


@pytest.mark.parametrize(("packed", "level"), [*product((True, False), LEVELS)])
def test_bytes_of_a_block(packed, level):
    """DESIGN's 1024 and 2816: 22 scales for each of gate and up."""
    d_model, d_ff = 1024, 2816
    form = {"packed": packed, "recompute": level, "dtype": torch.bfloat16}
    ffn = GatedFFN(d_model, d_ff, **form, **SAVE)
    x = random(3, d_model, dtype=torch.bfloat16, seed=1).requires_grad_()
    expected = 2 * d_model + 2 * (d_ff + 4 * 22) + (2 * d_ff if level == "none" else 0)
    assert ffn_cases.measured(ffn, x, [*ffn.parameters()]) == (expected, expected)
    assert expected == {"product": 7856, "none": 13488}[level]


@pytest.mark.parametrize("level", LEVELS)
def test_bytes_of_experts(level):
    d_model, d_ff, count, k, tokens = 512, 768, 8, 2, 4
    form = {"recompute": level, "dtype": torch.bfloat16}
    module = GatedExperts(count, d_model, d_ff, **form, **SAVE)
    x = random(tokens, d_model, dtype=torch.bfloat16, seed=1).requires_grad_()
    ids, weights = torch.rand(tokens, count).topk(k).indices, torch.rand(tokens, k)
    expected = 2 * d_model + k * 2 * (d_ff + 4 * 6) + 8 * k + 4 * count // tokens
    expected += k * 2 * d_ff if level == "none" else 0
    kept = ffn_cases.measured(
        lambda x: module(x, ids, weights), x, [ids, weights, *module.parameters()]
    )
    assert kept == (expected, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: GatedFFN(8, 16, **options),
        lambda **options: FFN(8, 16, **options),
        lambda **options: GatedExperts(2, 8, 16, **options),
    ],
    ids=["GatedFFN", "FFN", "GatedExperts"],
)
def test_forms(make):
    plain, module = make(), make(**SAVE)
    assert "save='fp8_block128'" in repr(module) and "save" not in repr(plain)
    assert module.state_dict().keys() == plain.state_dict().keys()
    with pytest.raises(ValueError, match="save: expected None with recompute='all'"):
        make(**SAVE, recompute="all")
    with pytest.raises(ValueError, match="save: expected one of fp8_block128, got 'fp8'"):
        make(save="fp8")


def test_projections_that_are_called():
    """With a hook they are modules, and the unit between them saves."""
    torch.manual_seed(0)
    ffn = GatedFFN(D_MODEL, D_FF, dtype=torch.bfloat16, **SAVE)
    x, grad_y = (random(TOKENS, D_MODEL, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    expected = ffn_cases.gradients(ffn, ffn, x, grad_y)
    ffn.gate_up_proj.register_forward_hook(lambda *_: None)
    saved, _ = ffn_cases.measured(ffn, x.requires_grad_(), [*ffn.parameters()])
    assert saved == 2 * D_MODEL + 2 * (D_FF + 4 * 2) + 2 * D_FF
    actual = ffn_cases.gradients(ffn, ffn, x, grad_y)
    check(actual[:2], expected[:2])
