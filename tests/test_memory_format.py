"""Activations keep the strides of a dense input, as torch's own do, and read it in place."""

import pytest
import torch
from cases import ACTIVATIONS, DEVICES, DTYPES, KINDS, random, same_bits
from torch.profiler import ProfilerActivity

import fused_acts
from fused_acts import nn
from fused_acts._call import ACTIVATION_INDEX

SHAPE = (2, 3, 4, 5)
FORMS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "columns first": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "two swapped": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "offset": lambda x: torch.cat((x[:1], x)).transpose(2, 3).contiguous()[1:].transpose(2, 3),
    "one of a size": lambda x: x[:, :1].contiguous(memory_format=torch.channels_last),
    "none": lambda x: x[:0].contiguous(memory_format=torch.channels_last),
}
NOT_DENSE = {
    "every other": lambda x: torch.stack((x, x), -1).flatten(-2)[..., ::2],
    "expanded": lambda x: x[:, :, :1].expand(SHAPE).transpose(0, 1),
    "cut": lambda x: FORMS["channels last"](torch.cat((x, x), 1))[:, :3],
}
ACTS = [name for name in KINDS if name in ACTIVATIONS]


def results(function, x, grad_out):
    leaf = x.detach().requires_grad_()
    out = function(leaf)
    return [out.detach(), *torch.autograd.grad(out, leaf, grad_out)]


def check(function, x, grad_form=None, strides=True):
    grad_out = random(*x.shape, dtype=x.dtype, seed=7)
    if grad_form:
        grad_out = grad_form(grad_out)
    actual = results(function, x, grad_out.to(x.device))
    expected = results(function, x.contiguous(), grad_out.contiguous().to(x.device))
    assert all(map(same_bits, actual, expected))
    if strides and x.numel():
        eager = torch.nn.functional.gelu(x)
        assert [t.stride() for t in actual] == [eager.stride()] * 2
    return actual


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTS)
def test_strides_are_kept(name, dtype, form, device):
    x = FORMS[form](random(*SHAPE, dtype=dtype, seed=1)).to(device)
    for grad_form in (None, FORMS[form] if x.shape == SHAPE else None, FORMS["columns first"]):
        check(getattr(fused_acts, name), x, grad_form)


@pytest.mark.parametrize("form", NOT_DENSE)
@pytest.mark.parametrize("name", ACTS)
def test_what_is_not_dense_becomes_contiguous(name, form):
    x = NOT_DENSE[form](random(*SHAPE, dtype=torch.float32, seed=1))
    out, grad = check(getattr(fused_acts, name), x, strides=False)
    assert out.is_contiguous() and grad.is_contiguous()


def test_one_parameter_for_all():
    x = FORMS["channels last"](random(*SHAPE, dtype=torch.float64, seed=1))
    slope = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    out, _ = check(lambda x: fused_acts.prelu(x, slope=slope), x)
    grads = [
        torch.autograd.grad(fused_acts.prelu(form, slope=slope).square().sum(), slope)[0]
        for form in (x, x.contiguous())
    ]
    torch.testing.assert_close(*grads)
    module = nn.PReLU().double()
    assert module(x).stride() == x.stride()


def test_with_a_value_for_each_column_it_is_copied():
    x = FORMS["channels last"](random(*SHAPE, dtype=torch.float32, seed=1))
    for options in ({"bias": torch.rand(5)}, {"beta": torch.rand(5)}):
        out, grad = check(lambda x, o=options: fused_acts.swish(x, **o), x, strides=False)
        assert out.is_contiguous() and grad.is_contiguous()


def test_reads_in_place():
    x = FORMS["channels last"](random(*SHAPE, dtype=torch.float32, seed=1)).requires_grad_()
    grad_out = torch.ones_like(x)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile:
        torch.autograd.grad(fused_acts.gelu(x), x, grad_out)
    names = [event.name for event in profile.events()]
    assert not {"aten::copy_", "aten::contiguous", "aten::clone"} & set(names)


@pytest.mark.parametrize("form", FORMS | NOT_DENSE)
@pytest.mark.parametrize("out_form", ["channels last", "columns first", "every other"])
def test_out(out_form, form):
    x = (FORMS | NOT_DENSE)[form](random(*SHAPE, dtype=torch.float32, seed=1))
    out = (FORMS | NOT_DENSE)[out_form](torch.zeros(x.shape))
    strides = out.stride()
    assert fused_acts.gelu(x, out=out) is out
    assert out.stride() == strides and same_bits(out, fused_acts.gelu(x.contiguous()))


def test_out_in_place():
    x = FORMS["channels last"](random(*SHAPE, dtype=torch.float32, seed=1))
    expected = fused_acts.gelu(x.contiguous())
    assert same_bits(fused_acts.gelu(x, out=x), expected)


def test_fakes_compilation_and_derivatives(fresh_dynamo):
    for form in FORMS.values():
        x = form(random(*SHAPE, dtype=torch.float64, seed=1)).requires_grad_()
        if not x.numel():
            continue
        arguments = x, None, ACTIVATION_INDEX["gelu"], 0
        op = torch.ops.fused_acts.glu_forward.default
        torch.library.opcheck(op, arguments, test_utils="test_faketensor")
        compiled = torch.compile(fused_acts.gelu, fullgraph=True, backend="aot_eager")
        out, eager = compiled(x), fused_acts.gelu(x)
        assert same_bits(out.detach(), eager.detach()) and out.stride() == eager.stride()
        grads = [torch.autograd.grad(y.sum(), x)[0] for y in (out, eager)]
        assert grads[0].stride() == grads[1].stride()
        assert torch.autograd.gradcheck(fused_acts.gelu, x, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(fused_acts.gelu, x)


def test_a_convolution_stays_in_channels_last():
    conv = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    x = random(*SHAPE, dtype=torch.float32, seed=1).contiguous(memory_format=torch.channels_last)
    for module in (nn.SiLU(), nn.GELU(), nn.Mish(), nn.Activation("tanh")):
        assert module(conv(x)).is_contiguous(memory_format=torch.channels_last)
