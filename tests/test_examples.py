"""The examples run, and their two kinds of feed-forward block learn alike."""

import argparse
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import VARIANTS
from tolerances import TRAINED_LOSS

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

from language_model import Size, load_text, make_model, make_rotation, rotate, sample  # noqa: E402
from train_lm import WARM_UP, compare, train  # noqa: E402
from train_moe import peak_of_a_step  # noqa: E402

TINY = Size(width=32, d_ff=48, heads=2, layers=2, length=16)
MIXED = replace(TINY, experts=4)


def arguments(**changed) -> argparse.Namespace:
    """Those of train_lm.py, for a run of a second."""
    defaults = {"steps": 8, "batch": 4, "lr": 2e-3, "dtype": "float32", "recompute": "product"}
    where = {"threads": None, "device": "cpu", "log_every": 100, "size": TINY, "validation": 2}
    return argparse.Namespace(**{**defaults, **where, "variant": "swiglu", "seed": 0, **changed})


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_learn_alike(variant):
    eager, fused = train(["eager", "fused"], arguments(variant=variant)).values()
    assert eager.losses[-1] < eager.losses[0]
    assert fused.losses == pytest.approx(eager.losses, rel=TRAINED_LOSS)
    assert fused.validation_loss == pytest.approx(eager.validation_loss, rel=TRAINED_LOSS)


@pytest.mark.parametrize("level", ["none", "product", "all"])
def test_bytes_saved(level):
    """The same but for the blocks, which keep so many elements less a token in each layer."""
    text = load_text()[0]
    less = {"none": TINY.d_ff, "product": 2 * TINY.d_ff, "all": 4 * TINY.d_ff}
    eager, fused = train(["eager", "fused"], arguments(recompute=level, steps=1)).values()
    difference = eager.saved_bytes_per_token - fused.saved_bytes_per_token
    assert difference == TINY.layers * 4 * less[level]
    assert len(text) > 10**6


@pytest.mark.parametrize("variant", ["swiglu", "geglu"])
def test_experts_learn_alike(variant):
    eager, fused = train(["eager", "fused"], arguments(variant=variant, size=MIXED)).values()
    assert eager.losses[-1] < eager.losses[0]
    assert fused.losses == pytest.approx(eager.losses, rel=TRAINED_LOSS)


def test_bytes_that_experts_save():
    """The levels differ by gate, up and their product, of each expert of a token."""
    kept = {
        level: train(["fused"], arguments(recompute=level, steps=1, size=MIXED))["fused"]
        for level in ("all", "product", "none")
    }
    lowest, middle, highest = (run.saved_bytes_per_token for run in kept.values())
    product = MIXED.layers * 4 * MIXED.top_k * MIXED.d_ff
    assert (middle - lowest, highest - middle) == (2 * product, product)
    eager = train(["eager"], arguments(steps=1, size=MIXED))["eager"]
    assert eager.saved_bytes_per_token > highest + product  # f(gate), and rows by expert


def test_peak_of_experts():
    """Activations alone differ, and eager keeps more of them."""
    peaks = [peak_of_a_step(ffn, arguments(size=MIXED)) for ffn in ("eager", "fused")]
    assert peaks[0] > peaks[1] > 0


def test_bytes_go_to_several_experts():
    model = make_model(MIXED, "fused", "swiglu", "product", seed=0)
    seen = []
    for block in model.blocks:
        block.ffn.experts.register_forward_pre_hook(lambda _, args: seen.append(args[1:]))
    model(torch.randint(256, (2, MIXED.length), generator=torch.Generator().manual_seed(0)))
    for ids, weights in seen:
        assert ids.shape == (2 * MIXED.length, MIXED.top_k) and len(ids.unique()) > 1
        assert (ids[:, 0] != ids[:, 1]).all()
        assert torch.allclose(weights.sum(1), torch.ones(len(weights)))


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_any_number_of_steps(steps):
    run = train(["fused"], arguments(steps=steps))["fused"]
    assert len(run.losses) == steps and run.median_seconds > 0


@pytest.mark.parametrize("size", [TINY, MIXED], ids=["one block", "experts"])
def test_bfloat16(size):
    run = train(["fused"], arguments(dtype="bfloat16", steps=30, size=size))["fused"]
    assert run.losses[-1] < run.losses[0] - 0.5


def test_models_that_take_turns_do_not_meddle(capsys):
    """Each learns as it does alone, and both are compared by the times of their steps."""
    together = train(["eager", "fused"], arguments())
    for ffn, run in together.items():
        assert run.losses == train([ffn], arguments())[ffn].losses
    for run, seconds in zip(together.values(), (2.0, 1.0), strict=True):
        run.seconds = [100.0] * WARM_UP + [seconds, seconds, 50.0]
    compare(**together)
    assert "fused to eager: 0.50 of the time (medians), 0." in capsys.readouterr().out


def test_text():
    train_text, validation_text = load_text()
    again = load_text()
    assert torch.equal(train_text, again[0]) and torch.equal(validation_text, again[1])
    assert len(validation_text) < len(train_text)
    start = bytes(validation_text[:2000].tolist())
    assert start not in bytes(train_text.tolist())
    inputs, targets = sample(train_text, (3, 50), torch.Generator().manual_seed(0))
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert bytes([*inputs[0].tolist(), targets[0, -1]]) in bytes(train_text.tolist())


@pytest.mark.parametrize("ffn", ["eager", "fused"])
def test_nothing_is_known_of_what_follows(ffn):
    model = make_model(TINY, ffn, "swiglu", "product", seed=0)
    text = torch.randint(256, (2, TINY.length), generator=torch.Generator().manual_seed(0))
    other = text.clone()
    other[:, -1] = 0
    logits, of_other = model(text), model(other)
    assert torch.equal(logits[:, :-1], of_other[:, :-1])
    assert not torch.allclose(logits[:, -1], of_other[:, -1])


def test_attention_sees_distances():
    rotation = make_rotation(12, 8)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    queries, keys = (rotate(t.expand(12, 8), rotation) for t in (q, k))
    scores = queries @ keys.T
    assert torch.allclose(scores[3:, 3:], scores[:-3, :-3], atol=1e-5)
    assert not torch.allclose(scores[:, 0], scores[:, 1], atol=1e-2)


@pytest.mark.slow  # each starts torch three times
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["train_lm.py", "--recompute", "all"], "training losses end"),
        (["train_lm.py", "--save"], "fp8: validation loss"),
        (["train_moe.py", "--experts", "4"], "tokens/s"),
        (["compare_variants.py", "--seeds", "1", "--variants", "glu", "swiglu"], "not a result"),
    ],
    ids=lambda value: value[0],
)
def test_commands(command, expected):
    short = ["--steps", "1", "--validation", "1", "--batch", "1", "--threads", "1"]
    run = subprocess.run(
        [sys.executable, EXAMPLES / command[0], *command[1:], *short],
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in run.stdout


@pytest.mark.slow
def test_gates_of_papers(own_units):
    """Defined, checked, timed and trained with, in a process that ends well."""
    command = [sys.executable, EXAMPLES / "own_gate.py", "--quick"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "defined smish_glu, serf_glu, isrlu_glu in" in said
    assert float(re.search(r"end (\S+) apart", said)[1]) < 1e-3
