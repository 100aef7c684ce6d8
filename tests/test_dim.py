"""Gate and up along another dimension than the last."""

import numpy as np
import pytest
import torch
from cases import DEVICES, KINDS, PACKED, VARIANTS, random, same_bits
from torch.profiler import ProfilerActivity

import fused_acts
from fused_acts import nn, reference

UNITS = [name for name in KINDS if name in VARIANTS]
SHAPES = [((2, 6, 5), 1), ((2, 6, 5), -2), ((4, 3, 5), 0), ((2, 4, 3, 7), -3), ((2, 2, 3, 1), 1)]
EMPTY = [((2, 6, 0), 1), ((0, 6, 5), 1), ((2, 0, 5), 1)]


def channels_last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def every_other(x):
    return torch.stack((x, x), -1).flatten(-2)[..., ::2]


FORMS = {"dense": lambda x: x, "channels last": channels_last, "every other": every_other}


def moved(x, dim, **options):
    """What is right, by the last dimension."""
    return fused_acts.gated(x.movedim(dim, -1).contiguous(), **options).movedim(-1, dim)


def check(x, dim, device="cpu", **options):
    grad_out = random(*moved(x, dim, **options).shape, dtype=x.dtype, seed=5)
    results = []
    for function in (fused_acts.gated, moved):
        leaf = x.to(device).requires_grad_()
        out = function(leaf, dim=dim, **options)
        results.append((out.detach(), *torch.autograd.grad(out, leaf, grad_out.to(device))))
    assert all(map(same_bits, *results))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape, dim", SHAPES + EMPTY)
@pytest.mark.parametrize("layout", PACKED)
@pytest.mark.parametrize("name", UNITS)
def test_is_that_of_the_last_dimension(name, layout, shape, dim, form, device):
    x = FORMS[form](random(*shape, dtype=torch.float32, seed=1))
    check(x, dim, device, variant=name, layout=layout)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_glu_is_that_of_torch(dtype):
    x = random(3, 10, 7, dtype=dtype, seed=1)
    check(x, 1, variant="glu", layout="up_gate")
    out = fused_acts.glu(x, dim=1, layout="up_gate")
    torch.testing.assert_close(out, torch.nn.functional.glu(x, 1))


@pytest.mark.parametrize("rounding", ["single", "eager"])
def test_biases_and_parameters_go_along_it(rounding):
    x = random(2, 6, 5, dtype=torch.float32, seed=1)
    vectors = {"bias": random(6, dtype=torch.float32, seed=2), "slope": torch.rand(3)}
    for form in FORMS.values():
        check(form(x), 1, variant="preglu", rounding=rounding, layout="interleaved", **vectors)


def test_agrees_with_the_oracle():
    x = random(2, 6, 5, dtype=torch.float64, seed=1)
    for options in ({}, {"bias": random(6, dtype=torch.float64, seed=2)}):
        out = fused_acts.swiglu(x, dim=1, limit=1.0, **options)
        torch.testing.assert_close(out, reference.gated(x, dim=1, limit=1.0, **options))


@pytest.mark.parametrize("layout", PACKED)
@pytest.mark.parametrize("form", ["dense", "channels last"])
def test_reads_in_place(form, layout):
    x = FORMS[form](random(2, 6, 4, 5, dtype=torch.float32, seed=1)).requires_grad_()
    grad_out = FORMS[form](torch.ones(2, 3, 4, 5))
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile:
        out = fused_acts.geglu(x, layout=layout, dim=1)
        (grad,) = torch.autograd.grad(out, x, grad_out)
    assert "aten::copy_" not in [event.name for event in profile.events()]
    assert (out.stride(), grad.stride()) == (grad_out.stride(), x.stride())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("out_form", FORMS)
@pytest.mark.parametrize("layout", PACKED)
def test_out(layout, form, out_form):
    x = FORMS[form](random(2, 6, 4, 5, dtype=torch.float32, seed=1))
    out = FORMS[out_form](torch.zeros(2, 3, 4, 5))
    version = out._version
    assert fused_acts.glu(x, dim=1, layout=layout, out=out) is out
    assert out._version > version
    assert same_bits(out, fused_acts.glu(x, dim=1, layout=layout))


def test_inplace_backward():
    leaf = random(2, 6, 5, dtype=torch.float32, seed=1).requires_grad_()
    x = leaf * 1
    (expected,) = torch.autograd.grad(fused_acts.swiglu(x, dim=1).sum(), leaf)
    x = leaf * 1
    out = fused_acts.swiglu(x, dim=1, inplace_backward=True)
    assert same_bits(torch.autograd.grad(out.sum(), leaf)[0], expected)
    assert same_bits(x.detach(), expected)  # there they were written
    with pytest.raises(ValueError, match="inplace_backward: expected gate"):
        fused_acts.swiglu(leaf, dim=1, inplace_backward=True)


def test_transforms_and_compilation(fresh_dynamo):
    x = random(2, 6, 5, dtype=torch.float64, seed=1)

    def function(x):
        return fused_acts.swiglu(x, dim=1)

    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(function, leaf, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaf)
    batched = torch.vmap(lambda x: fused_acts.swiglu(x, dim=0))(x)
    torch.testing.assert_close(batched, function(x))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), function(x))


def test_module():
    module = nn.GatedActivation("glu", "up_gate", dim=1)
    assert str(module) == "GatedActivation(variant='glu', layout='up_gate', dim=1)"
    x = random(2, 6, 5, dtype=torch.float32, seed=1)
    assert same_bits(module(x), fused_acts.glu(x, dim=1, layout="up_gate"))
    learned = nn.GatedActivation("preglu", dim=1, slope="per_channel", num_channels=3)
    learned(x).sum().backward()
    assert learned.slope.grad.shape == (3,)


def test_maxout_reads_channels_last_in_place():
    x = channels_last(random(2, 6, 4, 5, dtype=torch.float32, seed=1)).requires_grad_()
    grad_out = channels_last(torch.ones(2, 2, 4, 5))
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile:
        out = fused_acts.maxout(x, 3, dim=1)
        (grad,) = torch.autograd.grad(out, x, grad_out)
    assert "aten::copy_" not in [event.name for event in profile.events()]
    assert same_bits(out.detach(), reference.maxout(x.detach(), 3, dim=1))
    assert grad.stride() == x.stride()


def test_refusals():
    x = torch.ones(2, 6, 5)
    with pytest.raises(ValueError, match="dim: expected -1 with two tensors, got 1"):
        fused_acts.swiglu(x, x, dim=1)
    with pytest.raises(IndexError, match="dim: expected -3 to 2, got 3"):
        fused_acts.swiglu(x, dim=3)
    with pytest.raises(TypeError, match="dim: expected an integer, got float"):
        fused_acts.swiglu(x, dim=1.0)
    with pytest.raises(TypeError, match="dim: expected an integer, got str"):
        nn.GatedActivation(dim="1")
    with pytest.raises(ValueError, match="x: expected an even last dimension, gate and up packed"):
        fused_acts.swiglu(x, dim=2)
    with pytest.raises(ValueError, match=r"x: expected an even dimension 1, got shape \[2, 3, 5\]"):
        fused_acts.swiglu(x[:, :3], dim=1)
    with pytest.raises(ValueError, match=r"out: expected shape \[2, 3, 5\], got \[2, 6, 5\]"):
        fused_acts.swiglu(x, dim=1, out=torch.ones(2, 6, 5))
    with pytest.raises(TypeError, match="gate: expected a torch.Tensor, got ndarray"):
        fused_acts.swiglu(np.ones((2, 6)), dim=0)
    with pytest.raises(ValueError, match="layout: expected one of"):
        fused_acts.swiglu(x, dim=1, layout="halves")
    with pytest.raises(RuntimeError, match="out: expected no argument that requires grad"):
        fused_acts.swiglu(x.requires_grad_(), dim=1, out=torch.ones(2, 3, 5))
    with pytest.raises(ValueError, match="0-d"):
        fused_acts.swiglu(torch.tensor(1.0), dim=0)
