"""First and second derivatives at kinks, as torch has them, and at limits."""

import pytest
import torch
import torch.nn.functional as F
from cases import (
    as_inputs,
    own_layout,
)
from derivative_cases import of, second, tangent
from option_cases import LIMITED
from tolerances import close

import fused_acts

F64 = torch.float64


# As torch differentiates them: written out, not from the tables, whose f has where() for some.
KINKED = {
    "reglu": lambda gate, up: F.relu(gate) * up,
    "leaky_reglu": lambda gate, up: F.leaky_relu(gate) * up,
    "preglu": lambda gate, up: F.leaky_relu(gate, 0.25) * up,
    "elu_glu": lambda gate, up: F.elu(gate) * up,
    "squared_reglu": lambda gate, up: F.relu(gate).square() * up,
    "glu_relu": lambda gate, up: torch.sigmoid(gate) * F.relu(up),
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "prelu": lambda x: F.leaky_relu(x, 0.25),
    "elu": F.elu,
    "squared_relu": lambda x: F.relu(x).square(),
    "fatreglu": lambda gate, up: F.threshold(gate, 0.0, 0.0) * up,
    "relu6": F.relu6,
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,  # torch's own has no second derivative
    "hardswish": F.hardswish,
    "xielu": lambda x: torch.where(
        x > 0,
        0.8 * x * x + 0.5 * x,
        0.8 * (torch.expm1(x.clamp(max=-1e-6)) - x) + 0.5 * x,
    ),
}
BESIDE_0 = {
    "relu6": (6.0,),
    "hardsigmoid": (3.0, -3.0),
    "hardswish": (3.0, -3.0),
    "xielu": (-1e-7, -2e-6),
}


def at_kinks(name):
    """Operands that are at kinks, 0 of either sign, and left and right of it; and directions."""
    some = torch.tensor([0.0, -0.0, 1.0, -1.0, *BESIDE_0.get(name, ())], dtype=F64)
    inputs = [t.flatten().contiguous() for t in torch.meshgrid(some, some, indexing="ij")]
    one = torch.ones_like(inputs[0])
    for directions in ((one, one), (one, 0 * one), (0 * one, one)):
        layout = own_layout(name)
        yield as_inputs(*inputs, layout), as_inputs(*directions, layout), one


@pytest.mark.parametrize("name", KINKED)
def test_first_derivative_at_kinks_as_torch(name):
    both = of(name)[0], KINKED[name]
    for inputs, directions, one in at_kinks(name):
        close(*(tangent(function, inputs, directions) for function in both))
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        close(*(torch.autograd.grad(f(*leaves), leaves, one) for f in both))


@pytest.mark.parametrize("name", KINKED)
def test_second_derivative_at_kinks_as_torch(name):
    both = of(name)[0], KINKED[name]
    for inputs, directions, one in at_kinks(name):
        close(*(second(function, inputs, one, directions) for function in both))


@pytest.mark.parametrize("variant", LIMITED)
def test_at_limits(variant):
    """What lies on a limit is inside, as it is for the gradient."""
    limit = 1.5
    some = torch.tensor([limit, -limit], dtype=F64)
    some = torch.cat((some, some.nextafter(some * 9), some.nextafter(some * 0)))
    gate, up = (t.flatten().contiguous() for t in torch.meshgrid(some, some, indexing="ij"))
    one = torch.ones_like(gate)

    def clamped(gate, up):
        if fused_acts.reference.VARIANTS[variant].limits_value:
            product = torch.nn.functional.silu(gate)
            up = torch.where(up.abs() > limit, limit * up.detach().sign(), up)
            return torch.where(product > limit, limit, product) * up
        gate = torch.where(gate > limit, limit, gate)
        up = torch.where(up.abs() > limit, limit * up.detach().sign(), up)
        return fused_acts.reference.gated(gate, up, variant=variant, limit=None)

    both = of(variant, limit=limit)[0], clamped
    close(*(second(f, (gate, up), one, (one, -one)) for f in both))
