"""nn.FFN: the values and gradients of the composition, what it keeps, and what else it shares with
nn.GatedFFN, whose Function it is."""

import copy
from itertools import product

import pytest
import torch
from cases import ACTIVATIONS, DEVICES, same_bits
from compile_cases import Graphs
from ffn_cases import (
    D_FF,
    D_MODEL,
    LEVELS,
    Calls,
    block,
    composed,
    gradients,
    measured,
    relative,
    tokens,
)
from tolerances import FFN_ERROR_RATIO
from torch.autograd import gradcheck, gradgradcheck

from fused_acts._autograd import ffn as functions
from fused_acts.nn import FFN

FORMS = [
    {"kind": FFN, "bias": b, "recompute": level} for b, level in product((True, False), LEVELS)
]


def check(ffn, x, grad_y):
    actual = gradients(ffn, ffn, x, grad_y)
    assert max(relative(actual, gradients(lambda x: composed(ffn, x), ffn, x, grad_y))) < 1e-14


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_and_gradients(form, device):
    x, grad_y = tokens(2, 5), torch.randn(2, 5, D_MODEL, dtype=torch.float64)
    ffn = block(**form)
    expected = gradients(lambda x: composed(ffn, x), ffn, x, grad_y)
    ffn = ffn.to(device)
    actual = gradients(ffn, ffn, x.to(device), grad_y.to(device))
    assert max(relative([a.cpu() for a in actual], expected)) < 1e-14


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, device):
    ffn = block(kind=FFN, activation=activation, bias=False, device=device)
    check(ffn, tokens(device=device), tokens(device=device).cos())


def test_options():
    check(block(kind=FFN, activation="silu", beta=1.7), tokens(), tokens().cos())


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_less_accurate_than_torch(dtype, form):
    ffn = block(dtype=dtype, **form)
    x, grad_y = tokens(64, dtype=dtype), tokens(64, dtype=dtype).cos()
    actual = gradients(ffn, ffn, x, grad_y)
    assert {t.dtype for t in actual} == {dtype}
    eager = gradients(lambda x: composed(ffn, x), ffn, x, grad_y)
    wide = copy.deepcopy(ffn).double()
    exact = gradients(lambda x: composed(wide, x), wide, x.double(), grad_y.double())
    for ours, theirs in zip(relative(actual, exact), relative(eager, exact), strict=True):
        assert ours <= FFN_ERROR_RATIO * max(theirs, torch.finfo(dtype).eps)


@pytest.mark.parametrize("level", LEVELS)
def test_one_kernel_between_the_products(level):
    ffn, x = block(kind=FFN, bias=False, recompute=level), tokens()
    with Calls() as calls:
        y = ffn(x)
    assert calls.names == ["mm", "glu_forward", "mm"]
    with Calls() as calls:
        y.backward(tokens())
    again = ["mm"] if level == "all" else []
    assert calls.names == [*again, "mm", "glu_backward_inplace", "mm", "mm"]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_elements_kept(form):
    ffn, x = block(**form), tokens().requires_grad_()
    promised = D_MODEL + {"none": 2, "product": 1, "all": 0}[form["recompute"]] * D_FF
    assert measured(ffn, x, [*ffn.parameters()]) == (8 * promised, 8 * promised)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_derivatives_of_derivatives(form):
    ffn, x = block(**form), tokens(3).requires_grad_()

    def function(x, *values):
        named = dict(zip(dict(ffn.named_parameters()), values, strict=True))
        return torch.func.functional_call(ffn, named, x)

    few = {"eps": 1e-6, "atol": 1e-6, "fast_mode": True}
    assert gradcheck(function, (x, *ffn.parameters()), **few)
    assert gradgradcheck(function, (x, *ffn.parameters()), **few)


@pytest.mark.parametrize("level", LEVELS)
def test_frozen_weights(level):
    ffn = block(kind=FFN, recompute=level)
    x, grad_y = tokens(), tokens().cos()
    every = dict(ffn.named_parameters())
    expected = dict(zip(("x", *every), gradients(ffn, ffn, x, grad_y)[1:], strict=True))
    for chosen in product((True, False), repeat=len(expected)):
        names = [name for name, keep in zip(expected, chosen, strict=True) if keep]
        if not names:
            continue
        x.requires_grad_("x" in names)
        for name, parameter in every.items():
            parameter.requires_grad_(name in names)
        leaves = [x if name == "x" else every[name] for name in names]
        for name, grad in zip(names, torch.autograd.grad(ffn(x), leaves, grad_y), strict=True):
            assert torch.allclose(grad, expected[name], rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("bias", [True, False])
def test_compiled(bias):
    ffn, x, grad_y = block(kind=FFN, bias=bias), tokens(), tokens().cos()
    graphs = Graphs()
    compiled = torch.compile(ffn, backend=graphs.backend(), fullgraph=True)
    actual = gradients(compiled, ffn, x, grad_y)
    assert max(relative(actual, gradients(ffn, ffn, x, grad_y))) < 1e-14
    assert "fused_acts.glu_backward_inplace.default" in graphs.ours()


def test_autocast():
    ffn, x = block(kind=FFN, dtype=torch.float32), tokens(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ffn(x)
    assert y.dtype == torch.bfloat16
    assert relative([y], [composed(ffn, x)])[0] < 2.0**-6


def test_blocks_of_tokens():
    count = 2 * functions._BLOCK + 3
    ffn, x = block(kind=FFN, dtype=torch.float32), tokens(count, dtype=torch.float32)
    expected = ffn(x).detach()
    with torch.no_grad(), Calls() as calls:
        y = ffn(x)
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert calls.names.count("glu_forward_out") == 3


@pytest.mark.parametrize("name", ["up_proj", "down_proj"])
def test_projections_that_do_more_are_called(name):
    ffn, seen = block(kind=FFN), []
    getattr(ffn, name).register_forward_hook(lambda module, *_: seen.append(module))
    check(ffn, tokens(), tokens().cos())
    assert seen == [getattr(ffn, name)] * len(seen) and seen


@pytest.mark.parametrize(
    ("names", "transposed"),
    [
        (("up_proj", "down_proj"), False),
        (("fc1", "fc2"), False),
        (("c_fc", "c_proj"), False),
        (("c_fc", "c_proj"), True),
        (("dense_h_to_4h", "dense_4h_to_h"), False),
        (("wi", "wo"), False),
    ],
)
def test_checkpoints_of_others(names, transposed):
    source = block(kind=FFN)
    state = {
        f"mlp.{name}.{kind}": value.t() if transposed and kind == "weight" else value
        for name, linear in zip(names, (source.up_proj, source.down_proj), strict=True)
        for kind, value in linear.state_dict().items()
    }
    model = torch.nn.ModuleDict({"mlp": FFN(D_MODEL, D_FF).double()})
    model.load_state_dict(state)
    assert same_bits(model["mlp"](tokens()), source(tokens()))
    state.popitem()
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)


def test_bad_arguments():
    with pytest.raises(ValueError, match="activation: expected one of .*; did you mean gelu_tanh"):
        FFN(8, 16, "gelu_tan")
    with pytest.raises(ValueError, match="recompute: expected one of none, product, all, got 'x'"):
        FFN(8, 16, recompute="x")
    with pytest.raises(TypeError, match="alpha: gelu has no such option"):
        FFN(8, 16, "gelu", alpha=1.0)
    with pytest.raises(ValueError, match=r"x: expected \[\.\.\., 24\], got \(3, 8\)"):
        block(kind=FFN)(torch.zeros(3, 8))


def test_text_and_first_values():
    ffn = block(kind=FFN, activation="elu", alpha=0.5)
    assert "activation='elu', recompute='product', alpha=0.5" in repr(ffn)
    before = ffn.up_proj.weight.detach().clone()
    ffn.reset_parameters()
    assert not torch.equal(ffn.up_proj.weight, before)
    assert FFN(8, 16, device="meta")(torch.empty(3, 8, device="meta")).shape == (3, 8)
