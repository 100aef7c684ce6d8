"""nn.GatedFFN: the values and gradients of the composition, at every level of recomputation."""

import copy
import pickle
from itertools import product

import pytest
import torch
from cases import DEVICES, VARIANTS, same_bits
from ffn_cases import D_FF, D_MODEL, LEVELS, Calls, block, composed, gradients, relative, tokens
from tolerances import FFN_ERROR_RATIO
from torch.autograd import gradcheck, gradgradcheck

import fused_acts
from fused_acts._autograd import ffn as functions
from fused_acts.nn import GatedFFN

FORMS = [
    {"packed": packed, "bias": bias, "recompute": level}
    for packed, bias, level in product((True, False), (True, False), LEVELS)
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_and_gradients(form, device):
    x, grad_y = tokens(2, 5), torch.randn(2, 5, D_MODEL, dtype=torch.float64)
    ffn = block(**form)
    expected = gradients(lambda x: composed(ffn, x), ffn, x, grad_y)
    ffn = ffn.to(device)
    actual = gradients(ffn, ffn, x.to(device), grad_y.to(device))
    assert max(relative([a.cpu() for a in actual], expected)) < 1e-14


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant):
    ffn, x, grad_y = block(variant=variant), tokens(), tokens()
    actual = gradients(ffn, ffn, x, grad_y)
    expected = gradients(lambda x: composed(ffn, x), ffn, x, grad_y)
    assert max(relative(actual, expected)) < 1e-14


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_no_less_accurate_than_torch(dtype, form):
    """Against float64, with the same rounded weights: each result within a factor of torch's."""
    ffn = block(dtype=dtype, **form)
    x, grad_y = tokens(64, dtype=dtype), tokens(64, dtype=dtype).cos()
    actual = gradients(ffn, ffn, x, grad_y)
    eager = gradients(lambda x: composed(ffn, x), ffn, x, grad_y)
    wide = copy.deepcopy(ffn).double()
    exact = gradients(lambda x: composed(wide, x), wide, x.double(), grad_y.double())
    for ours, theirs in zip(relative(actual, exact), relative(eager, exact), strict=True):
        assert ours <= FFN_ERROR_RATIO * max(theirs, torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_levels_agree(dtype):
    """What is computed again is the same to the last bit."""
    results = []
    for level in LEVELS:
        ffn = block(dtype=dtype, recompute=level, bias=True)
        results.append(gradients(ffn, ffn, tokens(dtype=dtype), tokens(dtype=dtype).cos()))
    for others in results[1:]:
        assert all(map(same_bits, results[0], others))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_backward_twice(form):
    """The second time over gate and up have been overwritten by their gradients."""
    ffn, x = block(**form), tokens().requires_grad_()
    y = ffn(x)
    wanted = [x, *ffn.parameters()]
    first = torch.autograd.grad(y, wanted, tokens(), retain_graph=True)
    second = torch.autograd.grad(y, wanted, tokens())
    assert all(map(same_bits, first, second))


def test_gradients_accumulate_and_weights_are_shared():
    ffn = block()
    x = [tokens(), tokens().sin()]
    for t in x:
        ffn(ffn(t)).sum().backward()
    expected = copy.deepcopy(ffn)
    expected.zero_grad()
    sum(composed(expected, composed(expected, t)).sum() for t in x).backward()
    pairs = zip(ffn.parameters(), expected.parameters(), strict=True)
    assert all(torch.allclose(a.grad, e.grad, rtol=1e-12) for a, e in pairs)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("level", LEVELS)
def test_frozen_weights(level, packed):
    """Every choice of what requires grad: those gradients, and no product for the others."""
    ffn = block(packed=packed, bias=True, recompute=level)
    x, grad_y = tokens(), tokens().cos()
    every = dict(ffn.named_parameters())
    whole = gradients(ffn, ffn, x, grad_y)[1:]
    expected = dict(zip(("x", *every), whole, strict=True))
    for chosen in product((True, False), repeat=len(expected)):
        names = [name for name, keep in zip(expected, chosen, strict=True) if keep]
        if not names:
            continue
        x.requires_grad_("x" in names)
        for name, parameter in every.items():
            parameter.requires_grad_(name in names)
        y = ffn(x)
        leaves = [x if name == "x" else every[name] for name in names]
        with Calls() as calls:
            grads = torch.autograd.grad(y, leaves, grad_y)
        for name, grad in zip(names, grads, strict=True):
            assert torch.allclose(grad, expected[name], rtol=1e-12, atol=1e-14)
        hidden = [n for n in names if n == "x" or not n.startswith("down")]
        products = (1 if packed else 2) * ("x" in names) + sum("weight" in n for n in names)
        products += bool(hidden)  # through down
        if level == "all" and (hidden or "down_proj.weight" in names):
            products += 1 if packed else 2
        assert sum(name in ("mm", "addmm") for name in calls.names) == products, names


def test_one_kernel_for_the_unit():
    for level, forward, backward in (
        ("none", "glu_forward", "glu_backward_inplace"),
        ("product", "glu_forward", "glu_backward_inplace"),
        ("all", "glu_forward", "glu_backward_inplace"),
    ):
        ffn, x = block(recompute=level), tokens()
        with Calls() as calls:
            y = ffn(x)
        assert calls.names == ["mm", forward, "mm"]
        with Calls() as calls:
            y.backward(tokens())
        again = ["mm"] if level == "all" else []
        # through down; by the weight of down and by that of gate and up
        assert calls.names == [*again, "mm", backward, "mm", "mm"]


def test_nothing_else_is_written():
    ffn = block(bias=True)
    x, grad_y = tokens().requires_grad_(), tokens()
    before = [t.detach().clone() for t in (x, grad_y, *ffn.parameters())]
    versions = [t._version for t in (x, grad_y, *ffn.parameters())]
    ffn(x).backward(grad_y)
    after = (x, grad_y, *ffn.parameters())
    assert all(map(torch.equal, before, after))
    assert versions == [t._version for t in after]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_double_backward(form):
    ffn, x = block(**form), tokens(3).requires_grad_()
    parameters = tuple(ffn.parameters())

    def function(x, *values):
        named = dict(zip(dict(ffn.named_parameters()), values, strict=True))
        return torch.func.functional_call(ffn, named, x)

    few = {"eps": 1e-6, "atol": 1e-6, "fast_mode": True}
    assert gradcheck(function, (x, *parameters), **few)
    assert gradgradcheck(function, (x, *parameters), **few)


@pytest.mark.parametrize("level", LEVELS)
def test_double_backward_of_inputs_that_depend_on_each_other(level):
    """A block on itself, gate and up of one weight, an input made from a weight."""
    ffn = block(recompute=level, packed=False)
    ffn.up_proj.weight = ffn.gate_proj.weight
    leaves = [tokens(3).requires_grad_(), *ffn.parameters()]
    for x in (leaves[0], ffn(leaves[0]), leaves[0] @ ffn.gate_proj.weight[:D_MODEL]):
        y = ffn(x)
        plain, recorded = (
            torch.autograd.grad(y, leaves, tokens(3), retain_graph=True, create_graph=create)
            for create in (False, True)
        )
        assert max(relative(recorded, plain)) < 1e-13


@pytest.mark.parametrize("level", LEVELS)
def test_many_gradients_at_once(level):
    ffn, x = block(recompute=level, bias=True), tokens(2).requires_grad_()
    y = ffn(x)
    leaves = [x, *ffn.parameters()]
    grads_y = torch.stack([tokens(2), tokens(2).cos()])
    each = [torch.autograd.grad(y, leaves, g, retain_graph=True) for g in grads_y]
    batched = torch.autograd.grad(y, leaves, grads_y, retain_graph=True, is_grads_batched=True)
    mapped = torch.vmap(lambda g: torch.autograd.grad(y, leaves, g, retain_graph=True))(grads_y)
    for grads in (batched, mapped):
        for grad, *expected in zip(grads, *each, strict=True):
            assert torch.allclose(grad, torch.stack(expected), rtol=1e-12)
            assert not grad.requires_grad


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (2, 3, 4)])
def test_shapes(shape):
    ffn, x = block(), torch.randn(*shape, D_MODEL, dtype=torch.float64)
    grad_y = torch.randn_like(x)
    actual = gradients(ffn, ffn, x, grad_y)
    expected = gradients(lambda x: composed(ffn, x), ffn, x, grad_y)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert torch.allclose(a, e, rtol=1e-12)


def test_inputs_that_are_not_contiguous():
    ffn, x = block(), tokens(3, 5)
    for view in (x.transpose(0, 1), x[:, ::2], x.transpose(0, 2).contiguous().transpose(0, 2)):
        grad_y = view.cos().transpose(0, 1).contiguous().transpose(0, 1)
        actual = gradients(ffn, ffn, view, grad_y)
        expected = gradients(lambda x: composed(ffn, x), ffn, view, grad_y)
        assert max(relative(actual, expected)) < 1e-14


@pytest.mark.parametrize("form", FORMS[::3], ids=str)
def test_blocks_of_tokens(form):
    """Without a gradient: the same, and no tensor of all tokens' pre-activations."""
    count = 2 * functions._BLOCK + 3
    ffn, x = block(dtype=torch.float32, **form), tokens(count, dtype=torch.float32)
    expected = ffn(x).detach()
    with torch.no_grad(), Calls() as calls:
        y = ffn(x)
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert calls.names.count("glu_forward_out") == 3
    assert calls.largest <= 4 * max(count * D_MODEL, functions._BLOCK * 2 * D_FF)
    with torch.inference_mode():
        assert same_bits(ffn(x), y)


def test_a_traced_block_takes_other_numbers_of_tokens():
    ffn = block(dtype=torch.float32).requires_grad_(False)
    x = tokens(functions._BLOCK + 5, dtype=torch.float32)
    traced = torch.jit.trace(ffn, x)
    longer = tokens(2 * functions._BLOCK + 7, dtype=torch.float32)
    assert torch.allclose(traced(longer), ffn(longer), rtol=1e-4, atol=1e-6)


def test_meta_device():
    for packed in (True, False):
        ffn = GatedFFN(8, 16, bias=True, packed=packed, device="meta")
        assert ffn(torch.empty(3, 8, device="meta")).shape == (3, 8)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"recompute: expected one of none, product, all, got 'x'"):
        GatedFFN(8, 16, recompute="x")
    with pytest.raises(ValueError, match="variant: expected one of"):
        GatedFFN(8, 16, "swish")
    with pytest.raises(TypeError, match="limit: bilinear has no such option"):
        GatedFFN(8, 16, "bilinear", limit=1.0)
    with pytest.raises(TypeError, match="beta: expected no tensor"):
        GatedFFN(8, 16, beta=torch.ones(()))
    with pytest.raises(TypeError, match="inplace_backward: GatedFFN has no such option"):
        GatedFFN(8, 16, inplace_backward=True)
    with pytest.raises(ValueError, match=r"x: expected \[\.\.\., 24\], got \(3, 8\)"):
        block()(torch.zeros(3, 8))


def test_options():
    ffn, x, grad_y = block(variant="swiglu", beta=1.7, limit=0.4), tokens(), tokens().cos()
    actual = gradients(ffn, ffn, x, grad_y)
    assert max(relative(actual, gradients(lambda x: composed(ffn, x), ffn, x, grad_y))) < 1e-14
    plain = block(variant="swiglu")
    assert not torch.allclose(actual[0], plain(x))


def test_copies_and_text():
    ffn = block(variant="geglu", recompute="all", bias=True)
    for other in (copy.deepcopy(ffn), pickle.loads(pickle.dumps(ffn))):
        assert same_bits(other(tokens()), ffn(tokens()))
    assert "variant='geglu', recompute='all'" in repr(ffn)
    assert "Linear(in_features=24, out_features=80, bias=True)" in repr(ffn)
    assert fused_acts.nn.GatedFFN(8, 16, device="meta").gate_up_proj.weight.is_meta
