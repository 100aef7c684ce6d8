"""Activations as modules: torch.nn's in all but the kernel, and the generic one."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from cases import ACTIVATIONS, DEVICES, operands, random, same_bits, to_device
from derivative_cases import Operators
from option_cases import fused

from fused_acts import nn

# Modules of the same name and arguments in torch.nn and here, and what they compute.
SAME = [
    ("Sigmoid", {}, "sigmoid", {}),
    ("Tanh", {}, "tanh", {}),
    ("ReLU", {}, "relu", {}),
    ("LeakyReLU", {}, "leaky_relu", {}),
    ("LeakyReLU", {"negative_slope": 0.2}, "leaky_relu", {"negative_slope": 0.2}),
    ("ELU", {}, "elu", {}),
    ("ELU", {"alpha": 0.7}, "elu", {"alpha": 0.7}),
    ("SiLU", {}, "swish", {}),
    ("Mish", {}, "mish", {}),
    ("GELU", {}, "gelu", {}),
    ("GELU", {"approximate": "tanh"}, "gelu_tanh", {}),
    ("Softplus", {}, "softplus", {}),
    ("Softplus", {"beta": 0.7, "threshold": 30.0}, "softplus", {"beta": 0.7}),
    ("ReLU6", {}, "relu6", {}),
    ("Hardsigmoid", {}, "hardsigmoid", {}),
    ("Hardswish", {}, "hardswish", {}),
    ("Softsign", {}, "softsign", {}),
    ("PReLU", {}, "prelu", {"slope": torch.tensor([0.25])}),
    ("PReLU", {"num_parameters": 33, "init": 0.1}, "prelu", {"slope": torch.full((33,), 0.1)}),
]
INPLACE = ("ReLU", "LeakyReLU", "ELU", "SiLU", "Mish", "ReLU6", "Hardsigmoid", "Hardswish")


def copies(module):
    yield module
    yield copy.deepcopy(module)
    yield pickle.loads(pickle.dumps(module))
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    yield torch.load(file, weights_only=False)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", range(len(SAME)))
def test_drop_in(case, device):
    """Value and gradients as of torch.nn's, by one kernel for each pass."""
    kind, arguments, name, options = SAME[case]
    ours = getattr(nn, kind)(**arguments).to(device)
    theirs = getattr(torch.nn, kind)(**arguments)
    assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x, _, grad_out = operands(6, 33, dtype=torch.float32)
    results = []
    for module, where in ((ours, device), (theirs, "cpu")):
        leaf = to_device(x, where).requires_grad_()
        with Operators() as operators:
            out = module(leaf)
            grads = torch.autograd.grad(out, [leaf, *module.parameters()], grad_out.to(where))
        results.append([tensor.detach().cpu() for tensor in (out, *grads)])
        assert len(operators.names) == (2 if module is ours else 0)
    close(*results)
    assert same_bits(results[0][0], fused(name, x, x, options, device=device).out)


@pytest.mark.parametrize("case", range(len(SAME)))
def test_arguments_are_those_of_torch(case):
    kind, _, _, _ = SAME[case]
    ours, theirs = (inspect.signature(getattr(n, kind)).parameters for n in (nn, torch.nn))
    assert list(ours) == list(theirs)
    for name, argument in ours.items():
        assert argument.default == theirs[name].default and argument.kind == theirs[name].kind
    forward = inspect.signature(getattr(nn, kind).forward).parameters
    assert list(forward) == list(inspect.signature(getattr(torch.nn, kind).forward).parameters)


@pytest.mark.parametrize("case", range(len(SAME)))
def test_copies(case):
    kind, arguments, _, _ = SAME[case]
    module = getattr(nn, kind)(**arguments)
    x, _, _ = operands(6, 33, dtype=torch.float32)
    for copied in copies(module):
        assert type(copied) is type(module) and repr(copied) == repr(module)
        assert same_bits(copied(x).detach(), module(x).detach())


def test_states_are_exchanged_with_torch():
    x, _, _ = operands(6, 33, dtype=torch.float32)
    ours, theirs = (n.PReLU(33, dtype=torch.float64) for n in (nn, torch.nn))
    with torch.no_grad():
        theirs.weight.copy_(torch.linspace(-1, 1, 33))
    assert not torch.equal(ours(x.double()), theirs(x.double()))
    ours.load_state_dict(theirs.state_dict())
    close(ours(x.double()), theirs(x.double()))
    theirs.reset_parameters()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.weight, theirs.weight)
    sequences = [torch.nn.Sequential(torch.nn.Linear(33, 33), n.PReLU(33)) for n in (nn, torch.nn)]
    sequences[0].load_state_dict(sequences[1].state_dict())
    close(*(sequence(x) for sequence in sequences))


@pytest.mark.parametrize("shape", [(33,), (4, 33), (2, 33, 5), (2, 33, 3, 4), (0, 33, 5)])
def test_channels_of_prelu_are_those_of_torch(shape):
    x = torch.randn(shape)
    ours, theirs = (n.PReLU(33) for n in (nn, torch.nn))
    with torch.no_grad():
        theirs.weight.copy_(torch.linspace(-1, 1, 33))
    ours.load_state_dict(theirs.state_dict())
    if x.dim() == 1:  # which torch refuses
        close(ours(x), theirs(x.unsqueeze(0)).squeeze(0))
        return
    out, expected = ours(x), theirs(x)
    close(out, expected)
    assert out.is_contiguous()  # .view works on it, as on torch's
    grad_out = torch.randn(shape)
    own = torch.autograd.grad(out, ours.weight, grad_out)
    close(own, torch.autograd.grad(expected, theirs.weight, grad_out))
    with pytest.raises(ValueError, match="^slope: .*33"):
        ours(x[:, :32])


@pytest.mark.parametrize("kind", INPLACE)
def test_inplace_is_refused(kind):
    with pytest.raises(ValueError, match="^inplace: .*False.*True"):
        getattr(nn, kind)(inplace=True)
    assert getattr(nn, kind)(inplace=False).inplace is False


def test_bad_arguments_of_torch_modules():
    for call, match in (
        (lambda: nn.GELU("sigmoid"), "^approximate: .*none.*tanh.*'sigmoid'"),
        (lambda: nn.Softplus(threshold=5.0), "^threshold: .*20.*5.0"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_attributes_may_be_set_later():
    x, _, _ = operands(6, 33, dtype=torch.float32)
    for module, name, value in (
        (nn.LeakyReLU(), "negative_slope", 0.3),
        (nn.ELU(), "alpha", 0.3),
        (nn.Softplus(), "beta", 0.3),
        (nn.GELU(), "approximate", "tanh"),
    ):
        before = module(x)
        setattr(module, name, value)
        assert not torch.equal(module(x), before)


OWN = [
    (nn.SquaredReLU, {}, "squared_relu", {}, "SquaredReLU()"),
    (nn.QuickGELU, {}, "quick_gelu", {}, "QuickGELU()"),
    (nn.Swish, {}, "swish", {}, "Swish(beta=1.0)"),
    (nn.Swish, {"beta": 0.7}, "swish", {"beta": 0.7}, "Swish(beta=0.7)"),
    (nn.Swish, {"beta": "learned"}, "swish", {}, "Swish(beta='learned')"),
    (
        nn.Swish,
        {"beta": "per_channel", "num_channels": 33},
        "swish",
        {},
        "Swish(beta='per_channel', num_channels=33)",
    ),
]


@pytest.mark.parametrize("case", range(len(OWN)))
def test_own(case):
    kind, arguments, name, options, text = OWN[case]
    module = kind(**arguments)
    x, _, grad_out = operands(6, 33, dtype=torch.float32)
    for copied in copies(module):
        assert repr(copied) == text
        assert same_bits(copied(x).detach(), fused(name, x, x, options).out)
        copied(x.clone().requires_grad_()).backward(grad_out)
        assert all((learned.grad != 0).all() for learned in copied.parameters())
    learned = [key for key in arguments if arguments[key] in ("learned", "per_channel")]
    assert list(module.state_dict()) == learned


def test_compiled():
    torch._dynamo.reset()
    kinds = [*(getattr(nn, kind)(**given) for kind, given, _, _ in SAME)]
    block = torch.nn.Sequential(*kinds, nn.Activation("swish", True, num_channels=33))
    x = random(6, 33, dtype=torch.float32, seed=1)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    assert same_bits(compiled(x).detach(), block(x).detach())


def test_every_module_with_a_name_of_torch_is_tried_here():
    """An activation without a module of its own has `nn.Activation`."""
    named = {kind for kind in nn.__all__ if hasattr(torch.nn, kind)}
    assert named - {"Softmax"} == {kind for kind, _, _, _ in SAME}
    names = {name for _, _, name, _ in SAME} | {name for _, _, name, _, _ in OWN}
    assert {"sigmoid", "leaky_relu", "softplus"} < names <= set(ACTIVATIONS)


def test_xielu_is_that_of_apertus():
    """Names, shapes and values of transformers' class: checkpoints go both ways."""
    activations = pytest.importorskip("transformers.activations")
    theirs = activations.XIELUActivation(0.6, 1.1, dtype=torch.float32)
    ours = nn.XIELU()
    assert ours.load_state_dict(theirs.state_dict()) == ours.load_state_dict(ours.state_dict())
    x = torch.linspace(-9, 5, 1001)
    for one, other in zip(*(derivatives_of(m, x) for m in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)
    started = nn.XIELU(0.6, 1.1, dtype=torch.float64)
    torch.testing.assert_close(started(x.double()).float(), theirs(x))
    with pytest.raises(ValueError, match="^beta: expected 0.5, got 0.75"):
        ours.load_state_dict({**theirs.state_dict(), "beta": torch.tensor(0.75)})
    with pytest.raises(ValueError, match="^alpha_n_init: expected a number above 0.5"):
        nn.XIELU(alpha_n_init=0.4)


def test_xielu_made_on_the_meta_device():
    with torch.device("meta"):
        module = nn.XIELU()
    module = module.to_empty(device="cpu")
    module.reset_parameters()
    x = torch.linspace(-3, 3, 99)
    assert same_bits(module(x).detach(), nn.XIELU()(x).detach())
    module.load_state_dict(nn.XIELU(device="meta").state_dict(), assign=True)


def derivatives_of(module, x):
    x = x.clone().requires_grad_()
    out = module(x)
    return [out, *torch.autograd.grad(out.sum(), [x, *module.parameters()])]
