"""Maxout, Softmax, SoftmaxGLU, TopKGEGLU and those with parameters: the functions as modules."""

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
    (
        nn.TopKGEGLU(0.5),
        "TopKGEGLU(sparsity=0.5)",
        (X, UP),
        lambda gate, up: fused_acts.topk_geglu(gate, up, 0.5),
        GRAD,
    ),
]
# module, its repr, the function
LEARNED = [
    (
        nn.RMSNormGated(12),
        "RMSNormGated(12, eps=1e-06, gate='swish', norm_before_gate=True)",
        fused_acts.rms_norm_gated,
    ),
    (
        nn.RMSNormGated(12, 1e-3, "sigmoid", norm_before_gate=False, group_size=4),
        "RMSNormGated(12, eps=0.001, gate='sigmoid', norm_before_gate=False, group_size=4)",
        lambda x, z, weight: fused_acts.rms_norm_gated(
            x, z, weight, 1e-3, gate="sigmoid", norm_before_gate=False, group_size=4
        ),
    ),
    (
        nn.PolyNormGLU(1e-3),
        "PolyNormGLU(eps=0.001)",
        lambda *operands: fused_acts.polynorm_glu(*operands, 1e-3),
    ),
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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", range(len(LEARNED)))
def test_with_parameters(case, device):
    """Value and gradients, those of the parameters too, by one kernel for each pass."""
    module, text, function = LEARNED[case]
    leaves = [to_device(tensor, device).requires_grad_() for tensor in (X, UP)]
    grad_out = GRAD.to(device)
    for copied in copies(module.to(device)):
        assert repr(copied) == text
        parameters = list(copied.parameters())
        for parameter in parameters:
            torch.nn.init.normal_(parameter)
        expected = function(*leaves, *parameters)
        grads = torch.autograd.grad(expected, [*leaves, *parameters], grad_out)
        with Operators() as operators:
            out = copied(*leaves)
            found = torch.autograd.grad(out, [*leaves, *parameters], grad_out)
        assert [name for name in operators.names if "row_unit" in name] == operators.names[:2]
        for one, other in zip((out, *found), (expected, *grads), strict=True):
            assert same_bits(one.detach().cpu(), other.detach().cpu())
        copied.reset_parameters()
        whole = copied.state_dict().items()
        start = {"weight": 1.0 if isinstance(copied, nn.RMSNormGated) else 1 / 3, "bias": 0.0}
        assert all(torch.equal(value, torch.full_like(value, start[name])) for name, value in whole)


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
