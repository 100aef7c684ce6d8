"""Derivatives of higher order, forward mode, and the transforms of torch.func."""

import pytest
import torch
from cases import (
    ACTIVATIONS,
    KINDS,
    PACKED,
    UNARY,
    VARIANTS,
    as_inputs,
    exact_forward,
    gated,
    operands,
    rows_and_layouts,
    unpack,
)
from tolerances import close
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fused_acts

F64 = torch.float64


def oracle(name, layout):
    """The same function of the same inputs, in plain torch."""

    def function(*inputs):
        gate, up = unpack(*inputs, layout) if layout in PACKED else (*inputs, inputs[0])[:2]
        return exact_forward(name, gate, up)

    return function


def fused(name, layout):
    return lambda *inputs: gated(name, inputs, layout)


@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_gradgradcheck(name, layout):
    gate, up, _ = operands(2, 3, dtype=F64)
    inputs = [tensor.requires_grad_() for tensor in as_inputs(gate, up, layout)]
    assert torch.autograd.gradgradcheck(
        fused(name, layout), inputs, check_fwd_over_rev=True, check_rev_over_rev=True
    )


@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_third_derivative(name, layout):
    inputs = as_inputs(*operands(2, 3, dtype=F64)[:2], layout)

    def third(function):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        value = function(*leaves)
        for _ in range(3):
            value = torch.autograd.grad(value.sin().sum(), leaves, create_graph=True)[0]
        return value

    close(third(fused(name, layout)), third(oracle(name, layout)))


@pytest.mark.parametrize("wanted", [0, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_second_derivative_by_one_operand(variant, wanted):
    """With the other operand out of the graph, its gradient is None all the way."""
    inputs = operands(2, 3, dtype=F64)[:2]

    def second(function):
        leaves = [tensor.clone() for tensor in inputs]
        leaf = leaves[wanted].requires_grad_()
        (first,) = torch.autograd.grad(function(*leaves).exp().sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.sum(), leaf)[0]

    close(second(fused(variant, "separate")), second(oracle(variant, "separate")))


@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_dual_numbers(name, layout):
    inputs = as_inputs(*operands(4, 6, dtype=F64)[:2], layout)
    tangents = [tensor.cos() for tensor in inputs]
    _, expected = jvp(oracle(name, layout), inputs, tuple(tangents))
    for grad_mode in (torch.enable_grad(), torch.no_grad()):
        with grad_mode, forward_ad.dual_level():
            duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)]
            out = forward_ad.unpack_dual(gated(name, duals, layout))
            close(out.primal, gated(name, inputs, layout))
            close(out.tangent, expected)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tangent_of_one_operand(variant, which):
    inputs = list(operands(4, 6, dtype=F64)[:2])
    direction = inputs[which].cos()

    def along(function):
        def of_one(operand):
            return function(*inputs[:which], operand, *inputs[which + 1 :])

        return jvp(of_one, (inputs[which],), (direction,))

    close(along(fused(variant, "separate")), along(oracle(variant, "separate")))


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: lambda *inputs: grad(lambda *x: f(*x).sin().sum())(*inputs),
        lambda f: lambda *inputs: vjp(f, *inputs)[1](f(*inputs).detach()),
        lambda f: lambda *inputs: jvp(f, inputs, tuple(x.cos() for x in inputs)),
        jacrev,
        jacfwd,
        lambda f: hessian(lambda *inputs: f(*inputs).sin().sum()),
        lambda f: jacrev(jacrev(lambda *inputs: f(*inputs).sin().sum())),
        lambda f: vmap(lambda *inputs: f(*inputs).sin()),
        lambda f: vmap(grad(lambda *inputs: f(*inputs).sin().sum())),
        lambda f: vmap(hessian(lambda *inputs: f(*inputs).sin().sum())),
        lambda f: grad(lambda *inputs: vmap(f)(*inputs).sin().sum()),
        lambda f: vmap(vmap(f)),
    ],
    ids=[
        "grad",
        "vjp",
        "jvp",
        "jacrev",
        "jacfwd",
        "hessian",
        "jacrev of jacrev",
        "vmap",
        "vmap of grad",
        "vmap of hessian",
        "grad of vmap",
        "vmap of vmap",
    ],
)
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_func(name, layout, transform):
    inputs = as_inputs(*operands(2, 2, 4, dtype=F64)[:2], layout)
    close(*(transform(function(name, layout))(*inputs) for function in (fused, oracle)))


@pytest.mark.parametrize("in_dims", [(0, 0), (1, 1), (2, 0), (0, None), (None, 1), (-1, 2)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_vmap_over_any_dimension(variant, in_dims):
    shape = [3, 4, 5]

    def operand(dim, seed):
        sizes = list(shape)
        if dim is not None:
            sizes.insert(dim % 4, 2)
        return torch.randn(sizes, dtype=F64, generator=torch.Generator().manual_seed(seed))

    inputs = [operand(dim, seed) for seed, dim in enumerate(in_dims)]
    results = (vmap(f(variant, "separate"), in_dims)(*inputs) for f in (fused, oracle))
    close(*results)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_vmap_of_one_tensor_over_any_dimension(dim):
    x, _, _ = operands(4, 6, 8, dtype=F64)
    packed = [(name, layout) for name in KINDS if name in VARIANTS for layout in PACKED]
    for name, layout in (*packed, *((name, UNARY) for name in ACTIVATIONS)):
        close(*(vmap(f(name, layout), (dim,))(x) for f in (fused, oracle)))


def test_per_sample_gradients_of_a_module():
    """The usual use: vmap of grad over a batch, with parameters shared."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 8, dtype=F64)
    samples = torch.randn(5, 6, dtype=F64)

    def loss(parameters, sample, function):
        return function(functional_call(linear, parameters, (sample,))).square().sum()

    parameters = dict(linear.named_parameters())
    results = [
        vmap(grad(loss), in_dims=(None, 0, None))(parameters, samples, function)
        for function in (fused_acts.geglu, oracle("geglu", "gate_up"))
    ]
    close(*results)
    assert results[0]["weight"].shape == (5, 8, 6)
