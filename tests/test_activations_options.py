"""Activations alone with a bias and a parameter: values, gradients, sums over rows."""

import itertools

import pytest
import torch
from activation_cases import (
    ACTIVATIONS,
    ALONE,
    INDEX,
    PARAMETRIC,
    ROWS,
    check_call,
    fused,
    oracle,
    parameter,
    parameters,
)
from cases import DEVICES, DTYPES, operands, random, same_bits
from option_cases import Operators, check_sums

import fused_acts

KINDS = ("scalar", "single", "per channel")


def real(dtype):
    return torch.promote_types(dtype, torch.float32)


def check(name, x, options, grad_out, device="cpu"):
    result = fused(name, x, options, grad_out, device)
    for option, grad in result.options.items():
        assert grad.shape == options[option].shape and grad.dtype == options[option].dtype
    truth = oracle(name, x, options, grad_out)
    check_call(result, truth)
    if x.numel() > 0:
        check_sums(result, truth, x.shape[-1])
    else:
        assert all((grad == 0).all() for grad in result.options.values())
    assert same_bits(fused(name, x, options, device=device).out, result.out)
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bias(name, dtype, device):
    """In the dtype of x and in float32."""
    x, _, grad_out = operands(3, 13, 67, dtype=dtype)
    for own in {dtype, real(dtype)}:
        check(name, x, {"bias": random(67, dtype=own, seed=7)}, grad_out, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PARAMETRIC)
def test_numbers(name, dtype, device):
    x, _, grad_out = operands(7, 67, dtype=dtype)
    bias = {"bias": random(67, dtype=dtype, seed=7)}
    for value in (0.6, 1.9, -0.5):
        check(name, x, parameter(name, value), grad_out, device)
        check(name, x, parameter(name, value) | bias, grad_out, device)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_the_default_is_no_option(name):
    x, _, _ = operands(7, 67, dtype=torch.float32)
    default = fused(name, x).out
    assert same_bits(fused(name, x, parameter(name, ROWS[name].default)).out, default)
    assert same_bits(fused(name, x, parameter(name, None)).out, default)
    assert not same_bits(fused(name, x, parameter(name, 0.6)).out, default)


@pytest.mark.parametrize("name", [name for name in PARAMETRIC if name != "softplus"])
def test_zero(name):
    """Not of softplus, which divides by it, in torch too."""
    x, _, grad_out = operands(7, 67, dtype=torch.float32)
    check(name, x, parameter(name, 0), grad_out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PARAMETRIC)
def test_tensors(name, dtype, kind, device):
    """In the dtype of x and in float32, alone and with a bias."""
    x, _, grad_out = operands(3, 13, 67, dtype=dtype)
    for own in {dtype, real(dtype)}:
        options = parameter(name, parameters(67, own)[kind])
        check(name, x, options, grad_out, device)
        check(name, x, options | {"bias": random(67, dtype=own, seed=7)}, grad_out, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PARAMETRIC)
def test_a_tensor_is_as_good_as_a_number(name, dtype, device):
    """The same bits, for any shape of the same value."""
    x, _, grad_out = operands(9, 67, dtype=dtype)
    number = fused(name, x, parameter(name, 0.75), grad_out, device)
    for shape in ((), (1,), (67,)):
        tensor = torch.full(shape, 0.75, dtype=real(dtype))
        result = fused(name, x, parameter(name, tensor), grad_out, device)
        assert same_bits(result.out, number.out) and same_bits(result.inputs[0], number.inputs[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [0, 1, 3, 257, 4097])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_over_rows(dtype, rows, device, threads):
    """Right, and equal to the last bit whatever the number of threads and the strides."""
    cols = 37
    x, _, grad_out = operands(rows, cols, dtype=dtype)
    wide = torch.full((2, rows, cols + 9), float("nan"), dtype=dtype)
    strided = [
        into[:, 5 : cols + 5].copy_(tensor)
        for into, tensor in zip(wide, (x, grad_out), strict=True)
    ]
    for name, kind in itertools.product(PARAMETRIC if rows == 257 else PARAMETRIC[:1], KINDS):
        options = parameter(name, parameters(cols, real(dtype))[kind])
        options["bias"] = random(cols, dtype=real(dtype), seed=7)
        results = []
        for number in (1, 2):
            threads(number)
            results.append(fused(name, x, options, grad_out, device))
        results.append(fused(name, strided[0], options, strided[1], device))
        check_sums(results[0], oracle(name, x, options, grad_out), cols)
        first, *others = results
        for other in others:
            assert all(map(same_bits, first.options.values(), other.options.values()))
            assert same_bits(first.inputs[0], other.inputs[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 0), (0, 0), (3, 1), (8161, 2), (2, 5000), (6,)])
def test_odd_shapes(shape, device):
    x, _, grad_out = operands(*shape, dtype=torch.float64)
    for kind, given in parameters(shape[-1], torch.float64).items():
        options = {"beta": given, "bias": random(shape[-1], dtype=torch.float64, seed=7)}
        result = check("swish", x, options, grad_out, device)
        assert result.options["beta"].shape == given.shape, kind


def test_one_value_expanded_to_the_columns():
    """Its columns share an address, and each still has a gradient of its own."""
    x, _, grad_out = operands(33, 6, dtype=torch.float64)
    slope = torch.tensor([0.3], dtype=torch.float64)
    grads = []
    for row in (slope.expand(6), slope.repeat(6)):
        leaf = row.detach().requires_grad_()
        out = fused_acts.prelu(x, slope=leaf)
        grads.append(torch.autograd.grad(out, leaf, grad_out)[0])
    assert same_bits(*grads)


def test_only_what_is_wanted_is_computed():
    x, _, grad_out = operands(6, 33, dtype=torch.float32)
    bias, beta = random(33, dtype=torch.float32, seed=7), torch.tensor(0.8)
    every = fused("swish", x, {"bias": bias, "beta": beta}, grad_out)
    expected = {"x": every.inputs[0], **every.options}
    for wanted, needs in (("x", 1), ("bias", 4), ("beta", 16)):
        tensors = {"x": x, "bias": bias, "beta": beta}
        leaf = tensors[wanted] = tensors[wanted].clone().requires_grad_()
        out = fused_acts.swish(**tensors)
        (grad,) = torch.autograd.grad(out, leaf, grad_out)
        assert same_bits(grad, expected[wanted])
        grads = torch.ops.fused_acts.glu_backward_options(
            *(grad_out, x, None, bias, None, beta, 1.0, float("inf")),
            *(INDEX["swish"], ALONE, needs),
        )
        sizes = [grad.numel() > 0 for grad in grads]
        assert sizes == [needs == 1, False, needs != 1]


def test_one_kernel_for_each_pass():
    """Bias and parameter included; their gradients come from the pass over x."""
    x, bias, slope = (random(*shape, dtype=torch.float32, seed=1) for shape in ((4, 8), (8,), (8,)))
    for options in ({}, {"bias": bias}, {"bias": bias, "slope": slope}):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, *options.values())]
        with Operators() as operators:
            out = fused_acts.prelu(leaves[0], **dict(zip(options, leaves[1:], strict=True)))
            torch.autograd.grad(out.sum(), leaves)
        assert operators.names == ["glu_forward_options", "glu_backward_options"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_bias_of_other_strides(name, device):
    x, _, grad_out = operands(5, 6, dtype=torch.float32)
    bias = random(12, dtype=torch.float32, seed=7)[::2]
    results = [fused(name, x, {"bias": b}, grad_out, device) for b in (bias, bias.contiguous())]
    strided, dense = ([r.out, *r.inputs, *r.options.values()] for r in results)
    assert all(map(same_bits, strided, dense))


@pytest.mark.parametrize("name", PARAMETRIC)
def test_one_parameter_of_a_long_row(name):
    """A float that adds up millions of numbers of one sign loses digits."""
    x = -torch.rand(1 << 22) - 0.5
    grad_out = torch.ones_like(x)
    value = {ROWS[name].parameter: torch.tensor(1.5)}
    (grad,) = fused(name, x, value, grad_out).options.values()
    (exact,) = oracle(name, x, value, grad_out).called.options.values()
    torch.testing.assert_close(grad.double(), exact.double(), rtol=1e-6, atol=0)


def test_the_gradient_of_softplus_by_beta_does_not_cancel():
    x = torch.tensor([10.0, 1e2, 1e4, 1e6, -10.0, -1e4])
    beta = torch.full((6,), 1.7)
    (grad,) = fused("softplus", x, {"beta": beta}, torch.ones_like(x)).options.values()
    z = 1.7 * x.double().abs()
    exact = -(z * torch.exp(-z) / (1 + torch.exp(-z)) + torch.log1p(torch.exp(-z))) / 1.7**2
    torch.testing.assert_close(grad.double(), exact, rtol=1e-5, atol=1e-37)
