"""What the benchmarks of feed-forward blocks measure, and that they measure no wrong block."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent))  # last: the package tested is the installed one

from bench import blocks  # noqa: E402
from bench.footprint import peak_bytes, saved_bytes  # noqa: E402

CPU = torch.device("cpu")
SIZE = {"d_model": 64, "d_ff": 96, "tokens": [32], "dtypes": ["bf16"], "quick": False}


def make_case(**changed) -> blocks.Case:
    given = {**SIZE, "variant": "swiglu", "no_compile": True, "seed": 0, "device": CPU, **changed}
    (case,) = blocks.make_cases(argparse.Namespace(**given), default_tokens=[])
    return case


def test_saved_bytes():
    x, weight = torch.ones(10, requires_grad=True), torch.ones(10, requires_grad=True)
    assert saved_bytes(lambda: x * weight, []) == 80
    assert saved_bytes(lambda: x * weight, [weight]) == 40
    assert saved_bytes(lambda: x[:5] * x[5:], []) == 40  # views of one
    assert saved_bytes(lambda: x.exp().exp(), [x]) == 80  # results
    with torch.no_grad():
        assert saved_bytes(lambda: x * weight, []) == 0


def test_peak_bytes():
    x = torch.ones(2**18)  # 1 MiB

    def call():
        y = x + x
        z = y + y
        del y
        return z + z  # two at a time

    assert peak_bytes(call, CPU) == 2 * 2**20
    assert peak_bytes(lambda: (x + x, x - x, x * x), CPU) == 3 * 2**20
    assert peak_bytes(lambda: x.add_(x), CPU) == 0


def test_every_block_is_there_and_eager_first():
    names = [block.name for block in make_case().blocks]
    ours = {f"fused-acts, {p}, {r}" for p in ("packed", "separate") for r in blocks.RECOMPUTE}
    assert names[0] == "eager"
    assert {"eager, checkpoint", "fused-acts, packed, in fp8", *ours} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("variant", blocks.VARIANTS)
def test_variants(variant):
    """Each block agrees with the formula, or there would be no case."""
    assert make_case(variant=variant).blocks[0].name == "eager"


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_wrong_block_is_not_measured(dtype):
    case = make_case(dtypes=[dtype])
    ours = case.blocks[-1]
    for wrong, what in (
        (lambda x: ours.function(x) * 1.05, "y"),
        (lambda x: ours.function(x) + (x - x.detach()) * 0.05, "grad_x"),
        (lambda x: ours.function(x.detach()) + x * 0, "grad_x"),
    ):
        bad = replace(case, blocks=[*case.blocks, replace(ours, function=wrong)])
        with pytest.raises(RuntimeError, match=f"{ours.name}: {what} is off by"):
            blocks.check(bad, "swiglu")


def test_gradients_of_the_weights_are_checked():
    case = make_case()
    gate_up, down = case.blocks[-1].weights
    half = gate_up.detach().requires_grad_()  # whose gradient is not the one of the whole
    function = case.blocks[-1].function
    block = replace(
        case.blocks[-1],
        function=lambda x: function(x) + (half - half.detach()).sum() * 0.05,
        weights=(half, down),
    )
    with pytest.raises(RuntimeError, match="grad_gate_weight is off by"):
        blocks.check(replace(case, blocks=[case.blocks[0], block]), "swiglu")
