"""One graph in two threads: one of them runs, or both are right."""

import threading

import pytest
import torch
from cases import same_bits

import fused_acts


def in_two_threads(call):
    barrier, results = threading.Barrier(2), []

    def run():
        barrier.wait()
        try:
            results.append(call())
        except RuntimeError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_threads_through_one_graph():
    x = torch.randn(256, 512, requires_grad=True)
    expected = torch.autograd.grad(fused_acts.swiglu(x * 1, x * 2).sum(), x)[0]
    for _ in range(40):
        y = fused_acts.swiglu(x * 1, x * 2, inplace_backward=True).sum()
        results = in_two_threads(lambda: torch.autograd.grad(y, x, retain_graph=True)[0])  # noqa: B023
        refused = [r for r in results if isinstance(r, RuntimeError)]
        (right,) = [r for r in results if not isinstance(r, RuntimeError)]
        assert same_bits(right, expected)
        assert "inplace_backward: the gradients were already written" in str(refused[0])


def through_block(x):
    """A function of x, and the weight of down."""
    block = fused_acts.nn.GatedFFN(32, 256)
    return block, block.down_proj.weight


def through_experts(x):
    experts = fused_acts.nn.GatedExperts(4, 32, 256)
    ids, weights = torch.rand(len(x), 4).topk(2).indices, torch.rand(len(x), 2)
    return lambda x: experts(x, ids, weights), experts.down_proj


@pytest.mark.parametrize("wanted", ["x", "down", "both"])
@pytest.mark.parametrize("make", [through_block, through_experts])
def test_two_threads_through_one_block(make, wanted):
    x = torch.randn(300, 32, requires_grad=True)
    block, down = make(x)
    for _ in range(20):
        y = block(x).sum()
        lists = {"x": [[x], [x]], "down": [[x], [down]]}
        inputs = lists.get(wanted, [[x, down]] * 2)
        turns = iter(inputs)

        def call(y=y, turns=turns):
            mine = next(turns)
            return mine, torch.autograd.grad(y, mine, retain_graph=True)

        for mine, grads in in_two_threads(call):
            expected = torch.autograd.grad(block(x).sum(), mine)
            for grad, other in zip(grads, expected, strict=True):
                torch.testing.assert_close(grad, other)
