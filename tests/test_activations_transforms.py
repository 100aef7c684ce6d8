"""Activations alone: derivatives of every order and the transforms of torch.func."""

import pytest
import torch
from activation_cases import ACTIVATIONS, PARAMETRIC, parameter, parameters
from cases import operands, random
from option_cases import Operators, second
from test_second_order import FLOOR, ULPS
from tolerances import check
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fused_acts
from fused_acts import reference

F64 = torch.float64


def cases_of(name, cols):
    """Options of each kind, all of them tensors."""
    bias = {"bias": random(cols, dtype=F64, seed=7)}
    yield {}
    yield bias
    if name in PARAMETRIC:
        for given in parameters(cols, F64).values():
            yield parameter(name, given)
        yield bias | parameter(name, given)


def of(name, options):
    """The library's function and the oracle's, of x and then the options."""

    def bound(function):
        return lambda x, *rows: function(x, name, **dict(zip(options, rows, strict=True)))

    return bound(fused_acts.activation), bound(reference.activation)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def away_from_kinks(*shape):
    x, _, _ = operands(*shape, dtype=F64)
    return (x * 25).round() / 50 + 0.013


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradcheck(name):
    for options in cases_of(name, 3):
        function, _ = of(name, options)
        leaves = [t.clone().requires_grad_() for t in (away_from_kinks(2, 3), *options.values())]
        assert torch.autograd.gradcheck(
            function, leaves, check_forward_ad=True, check_batched_grad=True
        )
        assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_derivatives(name):
    """By x and the options."""
    for options in cases_of(name, 5):
        x, grad_out, direction = operands(4, 5, dtype=F64)
        directions = [direction, *(t.cos() for t in options.values())]
        tensors = [x, *options.values()]
        close(*(second(f, tensors, grad_out, directions) for f in of(name, options)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_derivatives_of_other_dtypes(name, dtype):
    x, grad_out, direction = operands(64, 67, dtype=dtype)
    results = second(lambda t: fused_acts.activation(t, name), [x], grad_out, [direction])
    x, grad_out, direction = (tensor.double() for tensor in (x, grad_out, direction))
    exact = second(lambda t: reference.activation(t, name), [x], grad_out, [direction])
    f = (x.abs() + 1.0).clamp(max=20.0)  # f and f' grow with x at most, except relu^2
    scales = (direction.abs() * f, (grad_out * direction).abs() * 2.0 * f)
    for actual, right, scale in zip(results, exact, scales, strict=True):
        check(actual, right, ULPS[dtype], scale * FLOOR[dtype])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_third_derivative(name):
    for options in cases_of(name, 3):

        def third(function, options=options):
            leaves = [
                t.clone().requires_grad_() for t in (away_from_kinks(2, 3), *options.values())
            ]
            value = function(*leaves)
            for _ in range(3):
                grads = torch.autograd.grad(
                    value.sin().sum(), leaves, create_graph=True, materialize_grads=True
                )
                value = sum(g.exp().sum() for g in grads).clamp(max=30.0).sin()
            return value

        torch.testing.assert_close(*map(third, of(name, options)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, n: grad(lambda *x: f(*x).sin().sum(), argnums=n),
        lambda f, n: lambda *x: vjp(f, *x)[1](f(*x).detach().cos()),
        lambda f, n: lambda *x: jvp(f, x, tuple(t.cos() for t in x)),
        lambda f, n: jacrev(f, argnums=n),
        lambda f, n: jacfwd(f, argnums=n),
        lambda f, n: hessian(lambda *x: f(*x).sin().sum(), argnums=n),
    ],
    ids=["grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian"],
)
@pytest.mark.parametrize("name", ["gelu", "swish", "prelu", "softplus"])
def test_func(name, transform):
    for options in cases_of(name, 3):
        tensors = (away_from_kinks(2, 3), *options.values())
        every = tuple(range(len(tensors)))
        close(*(transform(function, every)(*tensors) for function in of(name, options)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_vmap(name):
    """With any of x, bias and parameter in the batch, and the others shared."""
    x = away_from_kinks(5, 2, 4)
    for options in cases_of(name, 4):
        functions = of(name, options)
        rows = [torch.stack([t * (1 + i / 9) for i in range(5)]) for t in options.values()]
        for bits in range(1, 2 ** (1 + len(rows))):
            dims = tuple(0 if bits >> i & 1 else None for i in range(1 + len(rows)))
            tensors = [t if d == 0 else t[0] for t, d in zip((x, *rows), dims, strict=True)]
            close(*(vmap(function, dims)(*tensors) for function in functions))
            every = tuple(range(len(tensors)))
            of_sum = (lambda *t, f=f: f(*t).sin().sum() for f in functions)
            close(*(vmap(grad(f, argnums=every), dims)(*tensors) for f in of_sum))


def test_vmap_is_one_call_of_the_kernel():
    x = away_from_kinks(5, 2, 4)
    with Operators() as operators:
        vmap(fused_acts.swish)(x)
        vmap(lambda t: jvp(fused_acts.gelu, (t,), (t,)))(x)
    assert operators.names == ["glu_forward", "glu_forward", "glu_second"]
