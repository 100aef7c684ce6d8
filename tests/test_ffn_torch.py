"""nn.GatedFFN within torch: compilation, transforms, autocast, checkpoints, hooks, state dicts."""

import copy
import io

import pytest
import torch
from cases import same_bits
from compile_cases import Graphs
from ffn_cases import D_FF, D_MODEL, LEVELS, block, composed, gradients, tokens
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import fused_acts
from fused_acts.nn import GatedFFN

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def near(actual, expected, rtol=1e-11):
    return all(torch.allclose(a, e, rtol=rtol) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@torch._functorch.config.patch(donated_buffer=False)  # which would forbid a second backward pass
def test_compiled(level, dynamic):
    """In one graph, with the kernel in the backward one, and no gradient lost or overwritten."""
    ffn = block(recompute=level, bias=True, packed=level != "all")
    graphs = Graphs()
    compiled = torch.compile(ffn, backend=graphs.backend(), fullgraph=True, dynamic=dynamic)
    for count in (5, 8)[: 1 + dynamic]:
        x, grad_y = tokens(count).requires_grad_(), tokens(count).cos()
        expected = gradients(ffn, ffn, x, grad_y)
        y = compiled(x)
        leaves = [x, *ffn.parameters()]
        for retain in (True, False):
            grads = torch.autograd.grad(y, leaves, grad_y, retain_graph=retain)
            assert near((y, *grads), expected)
    assert "fused_acts.glu_backward_inplace.default" in graphs.ours()
    with torch.no_grad():
        assert near([compiled(x)], [ffn(x)])


@pytest.mark.parametrize("form", ["kernel", "inductor"])
def test_compiled_by_inductor(form):
    ffn, x = block(dtype=torch.float32), tokens(dtype=torch.float32)
    grad_y = tokens(dtype=torch.float32).cos()
    expected = gradients(ffn, ffn, x, grad_y)
    fused_acts.compile_as(form)
    compiled = torch.compile(ffn, fullgraph=True)
    assert near(gradients(compiled, ffn, x, grad_y), expected, 1e-4)
    graphs = Graphs()
    compiled = torch.compile(ffn, fullgraph=True, backend=graphs.backend())
    gradients(compiled, ffn, x, grad_y)
    assert bool(graphs.ours()) == (form == "kernel")


@pytest.mark.parametrize("packed", [True, False])
def test_function_transforms(packed):
    ffn, x = block(packed=packed, bias=True), tokens(4)
    parameters = dict(ffn.named_parameters())
    directions = {name: p.cos().detach() for name, p in parameters.items()}

    def ours(parameters, x):
        return torch.func.functional_call(ffn, parameters, x)

    def theirs(parameters, x):
        if packed:
            gate, up = (
                x @ parameters["gate_up_proj.weight"].t() + parameters["gate_up_proj.bias"]
            ).chunk(2, -1)
        else:
            gate, up = (
                x @ parameters[f"{n}.weight"].t() + parameters[f"{n}.bias"]
                for n in ("gate_proj", "up_proj")
            )
        product = torch.nn.functional.silu(gate) * up
        return product @ parameters["down_proj.weight"].t() + parameters["down_proj.bias"]

    def loss(function):
        return lambda parameters, x: function(parameters, x).square().sum()

    results = []
    for function in (ours, theirs):
        _, moved = torch.func.jvp(function, (parameters, x), (directions, x.sin()))
        grads = torch.func.grad(loss(function))(parameters, x)
        each = torch.vmap(torch.func.grad(loss(function)), (None, 0))(parameters, x)
        curved = torch.func.jvp(
            lambda x, f=function: torch.func.grad(loss(f), argnums=1)(parameters, x), (x,), (x,)
        )[1]
        results.append([moved, curved, *grads.values(), *each.values()])
    assert near(*results)


def test_forward_mode():
    ffn, x = block(bias=True), tokens()
    expected = torch.func.jvp(lambda x: composed(ffn, x), (x,), (x.sin(),))
    with forward_ad.dual_level():
        y = forward_ad.unpack_dual(ffn(forward_ad.make_dual(x, x.sin())))
    assert near(y, expected)


@pytest.mark.parametrize("level", LEVELS)
def test_autocast(level):
    """The products in bfloat16, the gradients in the dtype of the weights, as torch has them."""
    ffn = block(dtype=torch.float32, bias=True, recompute=level)
    x = tokens(64, dtype=torch.float32)
    grad_y = tokens(64, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ffn(x)
        assert y.dtype == torch.bfloat16
        with torch.no_grad():
            assert same_bits(ffn(x), y.detach())
    leaves = list(ffn.parameters())
    grads = torch.autograd.grad(y, leaves, grad_y)
    assert {g.dtype for g in grads} == {torch.float32}
    wide = copy.deepcopy(ffn).double()
    exact = gradients(lambda x: composed(wide, x), wide, x.double(), grad_y.double())
    for actual, expected in zip((y, *grads), (exact[0], *exact[2:]), strict=True):
        assert (actual - expected).abs().max() < 2.0**-6 * expected.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # not cast by torch either
        assert block()(tokens()).dtype == torch.float64


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("level", LEVELS)
def test_checkpoint(level, reentrant):
    ffn, x, grad_y = block(recompute=level), tokens(), tokens().cos()
    expected = gradients(ffn, ffn, x, grad_y)
    y = checkpoint(ffn, x.requires_grad_(), use_reentrant=reentrant)
    y.backward(grad_y)
    assert near((y, x.grad, *(p.grad for p in ffn.parameters())), expected)


def test_saved_tensors_go_through_hooks():
    """As they do to be offloaded; also where what comes back is the same tensor every time."""
    ffn, x = block(), tokens().requires_grad_()
    expected = gradients(ffn, ffn, x, tokens().cos())
    for pack, unpack in ((torch.clone, torch.clone), (lambda t: t, lambda t: t)):
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            y = ffn(x)
        for retain in (True, False):
            leaves = [x, *ffn.parameters()]
            grads = torch.autograd.grad(y, leaves, tokens().cos(), retain_graph=retain)
            assert near((y, *grads), expected)


def test_a_changed_input_is_noticed():
    ffn, x = block(), tokens().requires_grad_().clone()
    y = ffn(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


class LowRank(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.a = torch.nn.Linear(linear.in_features, 2, bias=False, dtype=linear.weight.dtype)
        self.b = torch.nn.Linear(2, linear.out_features, bias=False, dtype=linear.weight.dtype)

    def forward(self, x):
        return self.linear(x) + self.b(self.a(x))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("names", [("weight",), ("bias",), ("weight", "bias")])
def test_plain_tensors_in_the_place_of_parameters(names, packed):
    """As FSDP has them: views of what it gathered."""
    x, ffn = tokens(), block(packed=packed, bias=True)
    expected = ffn(x)
    gathered = []
    for child in ffn.children():
        for name in names:
            view = getattr(child, name).detach().clone().requires_grad_()
            delattr(child, name)
            setattr(child, name, view)
            gathered.append(view)
    y = ffn(x)
    assert same_bits(y, expected) and y.grad_fn.name() == "_FFNBackward"
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(y.sum(), gathered))


@pytest.mark.parametrize("packed", [True, False])
def test_projections_that_do_more_are_called(packed):
    """Hooks, adapters, parametrisations: what a Function of the bare weights would pass by."""
    x = tokens()
    for name in [n for n, _ in block(packed=packed).named_children()]:
        for hook in ("register_forward_hook", "register_forward_pre_hook"):
            ffn, seen = block(packed=packed), []
            getattr(getattr(ffn, name), hook)(lambda *args, seen=seen: seen.append(args[0]))
            assert near([ffn(x)], [composed(ffn, x)])
            assert seen == [getattr(ffn, name)]
        ffn, seen = block(packed=packed), []
        child = getattr(ffn, name)
        child.register_full_backward_hook(lambda *args, seen=seen: seen.append(args[0]))
        ffn(x).sum().backward()
        assert seen == [child]

        ffn = block(packed=packed)
        setattr(ffn, name, LowRank(getattr(ffn, name)))
        plain = block(packed=packed)
        weight = getattr(plain, name).weight
        weight.data += getattr(ffn, name).b.weight.data @ getattr(ffn, name).a.weight.data
        assert near([ffn(x)], [plain(x)])

        ffn = block(packed=packed)
        child = getattr(ffn, name)
        child.forward = lambda x, child=child: 0 * type(child).forward(child, x)
        assert not ffn(x).any()

        ffn = block(packed=packed)
        torch.nn.utils.parametrizations.spectral_norm(getattr(ffn, name)).eval()
        assert near([ffn(x)], [composed(ffn, x)])


NAMES = [
    ("gate_proj", "up_proj", "down_proj"),
    ("w1", "w3", "w2"),
    ("wi_0", "wi_1", "wo"),
    ("gate_up_proj", "down_proj"),
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("names", NAMES, ids=str)
def test_checkpoints_of_others(names, packed, bias):
    """Packed or not, under any of the names, within another module, nothing missing or left."""
    source = block(packed=len(names) == 2, bias=bias)
    parts = [*source.projections, source.down_proj]
    state = {
        f"layers.0.{name}.{kind}": value.clone()
        for name, linear in zip(names, parts, strict=True)
        for kind, value in linear.state_dict().items()
    }
    keys = list(state)
    model = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([GatedFFN(D_MODEL, D_FF, "swiglu", bias, packed).double()])}
    )
    model.load_state_dict(state)
    assert list(state) == keys
    assert near([model["layers"][0](tokens())], [source(tokens())])

    for key in keys:
        rest = {name: value for name, value in state.items() if name != key}
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(rest)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layers\.0\.w4"):
        model.load_state_dict({**state, "layers.0.w4.weight": torch.ones(1)})


def test_own_state_dict():
    for packed in (True, False):
        ffn = block(packed=packed, bias=True)
        file = io.BytesIO()
        torch.save(ffn.state_dict(), file)
        file.seek(0)
        state = torch.load(file)
        prefixes = ["gate_up_proj"] if packed else ["gate_proj", "up_proj"]
        expected = [f"{p}.{k}" for p in (*prefixes, "down_proj") for k in ("weight", "bias")]
        assert list(state) == expected
        other = GatedFFN(D_MODEL, D_FF, bias=True, packed=packed).double()
        other.load_state_dict(state)
        assert same_bits(other(tokens()), ffn(tokens()))
