"""Next to infinities, what is 0 by its kind adds 0: second derivatives, gradients by parameters."""

import itertools
import math

import pytest
import torch
from cases import ACTIVATIONS, DEVICES, DTYPES, ROWS, VARIANTS, as_inputs, own_layout, to_device
from derivative_cases import of
from option_cases import LIMITED, PARAMETRIC, real
from torch import func

INF = math.inf
GATES = (0.7, -0.7, 3.0, -3.0, INF, -INF)
UPS = (0.5, -0.5, INF, -INF)
GRADS = (1.0, -2.0, INF)


def grid(dtype, *values):
    rows = torch.tensor(list(itertools.product(*values)), dtype=torch.float64)
    return [column.contiguous() for column in rows.to(dtype).unbind(1)]


def derivatives(function, inputs, grad_out, directions):
    """The tangent of out, and gradients by grad_out and the inputs of the gradients along the
    directions; where a direction is None that input stands still."""
    moving = [i for i, direction in enumerate(directions) if direction is not None]
    along = [directions[i] for i in moving]

    def of_moving(*values):
        every = list(inputs)
        for i, value in zip(moving, values, strict=True):
            every[i] = value
        return function(*every)

    out = func.jvp(of_moving, tuple(inputs[i] for i in moving), tuple(along))[1]
    leaves = [tensor.clone().requires_grad_() for tensor in (grad_out, *inputs)]
    wanted = [leaves[1 + i] for i in moving]
    grads = torch.autograd.grad(function(*leaves[1:]), wanted, leaves[0], create_graph=True)
    return out, *torch.autograd.grad(grads, leaves, along, materialize_grads=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_second_derivatives_are_numbers_where_torch_has_numbers(name, dtype, device):
    gate, up, grad_out = grid(dtype, GATES, UPS if name in VARIANTS else (1.0,), GRADS)
    inputs = as_inputs(gate, up, own_layout(name))
    function, oracle = of(name)
    one = torch.full_like(gate, 1.5)
    for directions in ((one, None), (None, one), (one, one))[: 3 if name in VARIANTS else 1]:
        along = directions[: len(inputs)]
        exact = derivatives(
            oracle,
            [tensor.double() for tensor in inputs],
            grad_out.double(),
            [None if tensor is None else tensor.double() for tensor in along],
        )
        results = derivatives(
            function,
            [to_device(tensor, device) for tensor in inputs],
            to_device(grad_out, device),
            [None if tensor is None else to_device(tensor, device) for tensor in along],
        )
        for part, (actual, expected) in enumerate(zip(results, exact, strict=True)):
            fits = torch.isclose(
                actual.cpu().double(), expected.to(dtype).double(), rtol=0.02, atol=1e-3
            )
            wrong = ~fits & ~expected.isnan()
            cases = [t[wrong].tolist() for t in (gate, up, grad_out, actual.cpu(), expected)]
            assert not wrong.any(), (part, [d is not None for d in directions], *cases)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_forward_mode_is_the_backward_pass(name, dtype, device):
    """At infinities, and at finite numbers whose values overflow."""
    most = torch.finfo(dtype).max
    x = torch.tensor([INF, -INF, 2e19 if most > 2e19 else most, most, -most], dtype=dtype)
    leaf = to_device(x, device).requires_grad_()
    function, _ = of(name)
    (grad,) = torch.autograd.grad(function(leaf).sum(), leaf)
    along = func.jvp(function, (leaf.detach(),), (torch.ones_like(leaf),))[1]
    some = ~grad.isnan()
    torch.testing.assert_close(along[some], grad[some])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_a_tangent_of_0_next_to_infinity(name, dtype, device):
    """It is no different from none: columns of a Jacobian are such tangents."""
    if name not in VARIANTS:
        return
    gate, up = grid(dtype, GATES, UPS)
    function, _ = of(name)
    gate, up = to_device(gate, device), to_device(up, device)
    zero, one = torch.zeros_like(gate), torch.ones_like(gate)
    for both, alone in (((one, zero), (one, None)), ((zero, one), (None, one))):
        results = [
            derivatives(function, (gate, up), one, directions) for directions in (both, alone)
        ]
        torch.testing.assert_close(*results, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [INF, math.nan])
@pytest.mark.parametrize("name", [name for name in PARAMETRIC if name != "situ_glu"])
def test_a_parameter_that_has_no_part_in_a_result(name, value, dtype, device):
    """At large positive gates: an infinite or NaN gradient there is masked, as in F.prelu."""
    gate = torch.tensor([[2000.0, 3000.0], [-0.5, -0.25]], dtype=dtype)
    up = torch.full_like(gate, 0.5)
    for at_up in (False, True)[: 2 if name in VARIANTS else 1]:
        large = torch.tensor([[value], [1.0]], dtype=dtype).expand(2, 2).contiguous()
        ups, grad_out = (large, up) if at_up else (up, large)
        inputs = as_inputs(gate, ups, own_layout(name))
        for shape in ((), (2,)):
            gradients = []
            for masked in (False, True):
                option = torch.full(shape, 0.75, dtype=real(dtype))
                leaf = to_device(option, device).requires_grad_()
                function, _ = of(name, **({"limit": None} if name in LIMITED else {}))
                rows = slice(1, 2) if masked else slice(0, 2)
                out = function(
                    *(to_device(t[rows].contiguous(), device) for t in inputs),
                    **{[*ROWS[name].parameters][-1]: leaf},  # xielu's first one has a part
                )
                seed = to_device(grad_out[rows].contiguous(), device)
                gradients += torch.autograd.grad(out, leaf, seed)
            assert gradients[0].isfinite().all()
            torch.testing.assert_close(*gradients)
