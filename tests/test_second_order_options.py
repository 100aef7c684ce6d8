"""Double backward and forward mode by operands, biases and parameters, in float64."""

import pytest
import torch
from cases import (
    PACKED,
    VARIANTS,
    as_inputs,
    operands,
    random,
)
from option_cases import LIMITED, PARAMETRIC, of, parameter, second, tangent
from torch import func

F64 = torch.float64


def row_cases(variant):
    """(names of options that are tensors, others)"""
    yield ("gate_bias", "up_bias"), {}
    yield ("up_bias",), {}
    if variant in LIMITED:
        yield ("gate_bias", "up_bias"), {"limit": 1.3}
    if variant in PARAMETRIC:
        (name,) = parameter(variant, None)
        yield (name,), {}
        yield (name, "gate_bias", "up_bias"), {"limit": 1.3} if variant in LIMITED else {}


def rows_of(names, cols, dtype=F64):
    return [
        random(cols, dtype=dtype, seed=20 + seed).sign() * 0.7 + 0.1 * seed
        for seed, _ in enumerate(names)
    ]


def away_from_kinks(*shape):
    """Operands, with biases as above, that no limit and no 0 is within 0.01 of."""
    gate, up, grad_out = operands(*shape, dtype=F64)
    gate, up = ((tensor * 50).round() / 50 + 0.013 for tensor in (gate / 2, up))
    return gate, up, grad_out


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradgradcheck(variant):
    gate, up, _ = away_from_kinks(2, 3)
    for names, others in row_cases(variant):
        rows = rows_of(names, 3)
        function, _ = of(variant, names=names, **others)
        leaves = [tensor.requires_grad_() for tensor in (gate, up, *rows)]
        assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True)


@pytest.mark.parametrize("layout", PACKED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_with_rows(variant, layout):
    """Second derivatives by x and by all rows, one way and the other."""
    gate, up, grad_out = away_from_kinks(3, 4)
    (x,) = as_inputs(gate, up, layout)
    for names, others in row_cases(variant):
        rows = rows_of(names, 4)
        directions = [random(*t.shape, dtype=F64, seed=30 + i) for i, t in enumerate((x, *rows))]
        functions = of(variant, names=names, packed=True, layout=layout, **others)
        every = tuple(range(1 + len(rows)))
        forward_over_reverse = [
            func.grad(lambda *t, f=f: f(*t).sin().sum(), every) for f in functions
        ]
        for results in (
            [second(f, (x, *rows), grad_out, directions) for f in functions],
            [tangent(f, (x, *rows), directions) for f in functions],
            [tangent(f, (x, *rows), directions) for f in forward_over_reverse],
        ):
            torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_third_derivative(variant):
    gate, up, _ = away_from_kinks(2, 3)
    for names, others in row_cases(variant):
        rows = rows_of(names, 3)

        def third(function, rows=rows):
            leaves = [tensor.clone().requires_grad_() for tensor in (gate, up, *rows)]
            value = function(*leaves)
            for _ in range(3):
                grads = torch.autograd.grad(value.sin().sum(), leaves, create_graph=True)
                value = sum(grad.exp().sum() for grad in grads).clamp(max=30.0).sin()
            return value

        torch.testing.assert_close(
            *map(third, of(variant, names=names, **others)), rtol=1e-9, atol=1e-11
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_of_one_gradient(variant):
    """The gradient by one operand differentiated by each, the others' being None all the way."""
    gate, up, grad_out = away_from_kinks(3, 4)
    for names, others in row_cases(variant):
        tensors = (gate, up, *rows_of(names, 4))
        functions = of(variant, names=names, **others)
        for first in range(len(tensors)):
            for then in range(len(tensors)):

                def derive(function, tensors=tensors, first=first, then=then):
                    leaves = [
                        tensor.detach().clone().requires_grad_(i in (first, then))
                        for i, tensor in enumerate(tensors)
                    ]
                    (grad,) = torch.autograd.grad(
                        function(*leaves), leaves[first], grad_out, create_graph=True
                    )
                    if not grad.requires_grad:
                        return torch.zeros_like(leaves[then])
                    (result,) = torch.autograd.grad(
                        grad.sin().sum(), leaves[then], materialize_grads=True
                    )
                    return result

                torch.testing.assert_close(*map(derive, functions), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tangents_of_some(variant):
    """Any operands may move while the others stand still."""
    gate, up, _ = away_from_kinks(3, 4)
    for names, others in row_cases(variant):
        tensors = (gate, up, *rows_of(names, 4))
        for moving in [(i,) for i in range(len(tensors))] + [tuple(range(1, len(tensors)))]:

            def along(function, tensors=tensors, moving=moving):
                def of_moving(*some):
                    every = list(tensors)
                    for i, tensor in zip(moving, some, strict=True):
                        every[i] = tensor
                    return function(*every)

                primals = [tensors[i] for i in moving]
                return tangent(of_moving, primals, [t.cos() for t in primals])

            torch.testing.assert_close(
                *map(along, of(variant, names=names, **others)), rtol=1e-10, atol=1e-12
            )
