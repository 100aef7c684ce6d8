"""Double backward and forward mode by operands, biases and parameters, in float64."""

import pytest
import torch
from cases import ROWS, VARIANTS, as_inputs, operands, own_layout, random, rows_and_layouts
from derivative_cases import F64, of, option_cases, second, tangent
from tolerances import CLOSE_THIRD, close
from torch import func


def away_from_kinks(*shape):
    """Operands, with the biases of option_cases, that no limit and no 0 is within 0.01 of."""
    gate, up, grad_out = operands(*shape, dtype=F64)
    gate, up = ((tensor * 50).round() / 50 + 0.013 for tensor in (gate / 2, up))
    return gate, up, grad_out


def cases_of(name, *shape, layout=None):
    """(functions of the library and of the oracle, their tensors), for options of every kind."""
    gate, up, _ = away_from_kinks(*shape)
    layout = layout or own_layout(name)
    for rows, others in option_cases(name, shape[-1]):
        functions = of(name, names=tuple(rows), layout=layout, **others)
        yield functions, (*as_inputs(gate, up, layout), *rows.values())


# gradcheck compares with differences of the function itself: it shares nothing with the formulas.
@pytest.mark.parametrize("name", ROWS)
def test_gradgradcheck(name):
    for (function, _), tensors in cases_of(name, 2, 3):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        assert torch.autograd.gradcheck(
            function, leaves, check_forward_ad=True, check_batched_grad=name not in VARIANTS
        )
        assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True)


# The oracle is plain torch and its autograd, which runs nothing of the library. That its functions
# are right is in test_reference.py, and that these derivatives are, in test_gradgradcheck.
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_forward_and_reverse_mode(name, layout):
    """Second derivatives by the operands and by all rows, one way and the other."""
    _, _, grad_out = operands(3, 4, dtype=F64)
    for functions, tensors in cases_of(name, 3, 4, layout=layout):
        directions = [random(*t.shape, dtype=F64, seed=30 + i) for i, t in enumerate(tensors)]
        every = tuple(range(len(tensors)))
        forward_over_reverse = [
            func.grad(lambda *t, f=f: f(*t).sin().sum(), every) for f in functions
        ]
        close(*(second(f, tensors, grad_out, directions) for f in functions))
        close(*(tangent(f, tensors, directions) for f in functions))
        close(*(tangent(f, tensors, directions) for f in forward_over_reverse))


@pytest.mark.parametrize("name", ROWS)
def test_third_derivative(name):
    for functions, tensors in cases_of(name, 2, 3):

        def third(function, tensors=tensors):
            leaves = [tensor.clone().requires_grad_() for tensor in tensors]
            value = function(*leaves)
            for _ in range(3):
                grads = torch.autograd.grad(
                    value.sin().sum(), leaves, create_graph=True, materialize_grads=True
                )
                value = sum(grad.exp().sum() for grad in grads).clamp(max=30.0).sin()
            return value

        torch.testing.assert_close(*map(third, functions), **CLOSE_THIRD)


@pytest.mark.parametrize("variant", VARIANTS)
def test_of_one_gradient(variant):
    """The gradient by one operand differentiated by each, the others' being None all the way."""
    _, _, grad_out = operands(3, 4, dtype=F64)
    for functions, tensors in cases_of(variant, 3, 4):
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

                close(*map(derive, functions))


@pytest.mark.parametrize("name", ROWS)
def test_tangents_of_some(name):
    """Any operands may move while the others stand still."""
    for functions, tensors in cases_of(name, 3, 4):
        for moving in [(i,) for i in range(len(tensors))] + [tuple(range(1, len(tensors)))]:

            def along(function, tensors=tensors, moving=moving):
                def of_moving(*some):
                    every = list(tensors)
                    for i, tensor in zip(moving, some, strict=True):
                        every[i] = tensor
                    return function(*every)

                primals = [tensors[i] for i in moving]
                return tangent(of_moving, primals, [t.cos() for t in primals])

            close(*map(along, functions))
