"""save= where torch looks at calls: what is refused, torch.compile, recorded programs."""

from functools import partial

import pytest
import torch
from cases import operands, random, same_bits
from compile_cases import Graphs
from save_cases import SAVE, kept_by
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import fused_acts
from fused_acts.nn import GatedExperts, GatedFFN

COLS = 136


def ffn() -> GatedFFN:
    torch.manual_seed(0)
    return GatedFFN(24, COLS, dtype=torch.bfloat16, **SAVE)


def experts():
    torch.manual_seed(0)
    module = GatedExperts(4, 24, COLS, dtype=torch.bfloat16, layout="interleaved", **SAVE)
    ids = torch.tensor([[0, 1], [3, 1], [2, 4]])  # the last is of no expert
    weights = torch.rand(3, 2)
    return lambda x: module(x, ids, weights)


CALLS = {
    "two tensors": (lambda x: fused_acts.swiglu(x, 2 * x, **SAVE), COLS),
    "interleaved": (lambda x: fused_acts.swiglu(x, layout="interleaved", **SAVE), 2 * COLS),
    "activation": (partial(fused_acts.gelu, **SAVE), COLS),
    "GatedFFN": (ffn(), 24),
    "GatedExperts": (experts(), 24),
}
each_call = pytest.mark.parametrize(("function", "width"), CALLS.values(), ids=CALLS.keys())


@each_call
def test_checkpoints(function, width):
    """torch.utils.checkpoint gives what is saved once in a backward pass."""
    x = leaf(width)
    (expected,) = torch.autograd.grad(function(x).sum(), x)
    again = checkpoint(function, x, use_reentrant=False)
    (grad,) = torch.autograd.grad(again.sum(), x)
    assert torch.equal(grad, expected)


def leaf(width: int) -> torch.Tensor:
    return random(3, width, dtype=torch.bfloat16, seed=1).requires_grad_()


@each_call
def test_no_second_derivative(function, width):
    x = leaf(width)
    y = function(x)
    with pytest.raises(RuntimeError, match="save: expected a backward pass without create_graph"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@each_call
def test_one_backward_pass_at_a_time(function, width):
    x = leaf(width)
    y = function(x)
    with pytest.raises(RuntimeError, match="save: expected one backward pass at a time"):
        torch.autograd.grad(y, x, torch.ones(2, *y.shape, dtype=y.dtype), is_grads_batched=True)


@each_call
def test_no_transforms(function, width):
    x = leaf(width).detach()

    def forward_mode(x):
        with forward_ad.dual_level():
            return function(forward_ad.make_dual(x, x))

    transforms = {
        "grad": torch.func.grad(lambda x: function(x).float().sum()),
        "jvp": lambda x: torch.func.jvp(function, (x,), (x,)),
        "vmap": lambda x: torch.vmap(function)(x.expand(2, *x.shape)),
        "forward mode": forward_mode,
    }
    for call in transforms.values():
        with pytest.raises(RuntimeError, match="save: expected None under the transforms"):
            call(x)


def test_forward_mode_of_others():
    """A level without a tangent of these is none of their business."""
    gate, up, _ = operands(3, COLS, dtype=torch.float32)
    expected = fused_acts.swiglu(gate, up)
    with forward_ad.dual_level():
        out = fused_acts.swiglu(gate.requires_grad_(), up, **SAVE)
        (actual,) = torch.autograd.grad(out.sum(), gate)
    again = fused_acts.swiglu(gate, up, **SAVE)
    assert same_bits(out, expected)
    assert same_bits(actual, torch.autograd.grad(again.sum(), gate)[0])


def test_refused_options():
    gate, up, _ = operands(3, COLS, dtype=torch.float64)
    for written in ({}, {"out": torch.empty_like(gate)}):
        with pytest.raises(TypeError, match="save: expected float32, .* bfloat16, got torch.f"):
            fused_acts.swiglu(gate, up, **SAVE, **written)
    gate, up = gate.float().requires_grad_() * 1, up.float()
    with pytest.raises(ValueError, match="inplace_backward: expected False with save"):
        fused_acts.swiglu(gate, up, inplace_backward=True, **SAVE)
    with pytest.raises(ValueError, match="save: expected one of fp8_block128, got 'mxfp8'"):
        fused_acts.swiglu(gate, up, save="mxfp8")
    with pytest.raises(ValueError, match="up: expected shape"):
        fused_acts.swiglu(gate, up[:2], **SAVE)
    with pytest.raises(TypeError, match="up: expected a torch.Tensor"):
        fused_acts.swiglu(gate, 2.0, **SAVE)


@each_call
def test_compiled(function, width):
    """One graph, which keeps eight bits for the other, and the bits of eager code."""
    torch._dynamo.reset()
    graphs = Graphs()
    compiled = torch.compile(function, fullgraph=True, backend=graphs.backend())
    x = leaf(width)
    (y, kept), (expected, kept_in_eager) = (kept_by(partial(f, x)) for f in (compiled, function))
    assert same_bits(y, expected)
    of_both = [torch.autograd.grad(each.sum(), x)[0] for each in (y, expected)]
    assert same_bits(*of_both)
    names = graphs.ours()
    assert any("quantize_blocks.default" in name for name in names)
    assert kept == kept_in_eager


def test_compiled_with_a_choice_of_what_is_kept():
    """The partition that Inductor makes keeps what takes the least: the eight bits."""
    torch._dynamo.reset()
    function, width = CALLS["interleaved"]
    x = leaf(width)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager_decomp_partition")
    (y, kept), (expected, kept_in_eager) = (kept_by(partial(f, x)) for f in (compiled, function))
    assert same_bits(y, expected) and kept == kept_in_eager


class Unit(torch.nn.Module):
    def __init__(self, options):
        super().__init__()
        self.options = options

    def forward(self, x):
        return fused_acts.swiglu(x, **self.options)


RECORDERS = {
    "export": lambda unit, x: torch.export.export(unit, (x,)).module(),
    "strict export": lambda unit, x: torch.export.export(unit, (x,), strict=True).module(),
    "make_fx": lambda unit, x: make_fx(unit)(x),
}


@pytest.mark.parametrize("record", RECORDERS.values(), ids=RECORDERS.keys())
def test_recorded(record):
    """A program has the unit itself, and is trained by its own gate and up."""
    gradients = []
    for options in (SAVE, {}):
        x = leaf(2 * COLS)
        program = record(Unit(options), x)
        assert "quantize" not in program.code
        gradients.append(torch.autograd.grad(program(x).sum(), x)[0])
    assert same_bits(*gradients)
