"""Maxout, Softmax and SoftmaxGLU: the functions as modules."""

import pytest
import torch
from cases import DEVICES, operands, random, same_bits, to_device
from derivative_cases import Operators
from test_nn_activations import copies

import fused_acts
from fused_acts import nn

X, UP, GRAD = operands(6, 12, dtype=torch.float32)
# module, its repr, inputs, the function, gradient of the output
CASES = [
    (
        nn.Maxout(3),
        "Maxout(pieces=3, dim=-1)",
        (X,),
        lambda x: fused_acts.maxout(x, 3),
        GRAD[:, :4],
    ),
    (
        nn.Maxout(pieces=2, dim=0),
        "Maxout(pieces=2, dim=0)",
        (X,),
        lambda x: fused_acts.maxout(x, 2, 0),
        GRAD[:3],
    ),
    (nn.SoftmaxGLU(), "SoftmaxGLU()", (X, UP), fused_acts.softmax_glu, GRAD),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_function(case, device):
    """Value and gradients, by one kernel for each pass, of the module and its copies."""
    module, text, inputs, function, grad_out = CASES[case]
    leaves = [to_device(tensor, device).requires_grad_() for tensor in inputs]
    grad_out = grad_out.to(device)
    expected = function(*leaves)
    grads = torch.autograd.grad(expected, leaves, grad_out)
    for copied in copies(module.to(device)):
        assert repr(copied) == text and not copied.state_dict()
        with Operators() as operators:
            out = copied(*leaves)
            found = torch.autograd.grad(out, leaves, grad_out)
        assert len(operators.names) == 2
        for one, other in zip((out, *found), (expected, *grads), strict=True):
            assert same_bits(one.detach().cpu(), other.detach().cpu())


@pytest.mark.parametrize("case", range(len(CASES)))
def test_compiled(case):
    module, _, inputs, _, _ = CASES[case]
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert same_bits(compiled(*inputs), module(*inputs))


def test_a_maxout_layer_learns():
    """Behind a projection: each unit's gradient reaches the weights of its winner alone."""
    layer = torch.nn.Sequential(torch.nn.Linear(5, 8), nn.Maxout(4))
    x = random(1, 5, dtype=torch.float32, seed=1)
    layer(x)[0, 1].backward()
    hidden = layer[0](x)[0]
    winner = 4 + int(hidden[4:].argmax())
    assert [int(i) for i in layer[0].bias.grad.nonzero()] == [winner]


def test_softmax_is_torchs():
    assert nn.Softmax is torch.nn.Softmax
    assert same_bits(nn.Softmax(dim=-1)(X), fused_acts.softmax(X))


@pytest.mark.parametrize(
    "error, match, arguments",
    [
        (TypeError, "^pieces: .*float", (2.0,)),
        (TypeError, "^pieces: .*bool", (True,)),
        (ValueError, "^pieces: .*0$", (0,)),
        (ValueError, "^pieces: .*257$", (257,)),
        (TypeError, "^dim: .*None", (2, None)),
    ],
)
def test_arguments_are_checked_at_once(error, match, arguments):
    with pytest.raises(error, match=match):
        nn.Maxout(*arguments)


def test_errors_of_the_call():
    with pytest.raises(ValueError, match="^x: .*pieces = 5"):
        nn.Maxout(5)(X)
    with pytest.raises(ValueError, match="^up: "):
        nn.SoftmaxGLU()(X, UP[:1])
