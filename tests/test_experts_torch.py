"""nn.GatedExperts within torch: compilation, transforms, autocast, checkpoints, state dicts."""

import copy
import io
from functools import partial

import pytest
import torch
from cases import same_bits
from compile_cases import Graphs
from expert_cases import (
    D_FF,
    D_MODEL,
    EXPERTS,
    LEVELS,
    close,
    experts,
    gradients,
    looped,
    routed,
    tokens,
)
from tolerances import CLOSE
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

import fused_acts
from fused_acts.nn import GatedExperts

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


@pytest.mark.parametrize("level", LEVELS)
@torch._functorch.config.patch(donated_buffer=False)  # which would forbid a second backward pass
def test_compiled(level):
    """In one graph for any number of tokens and any routing, with the kernels in it."""
    module, graphs = experts(recompute=level, bias=True), Graphs()
    compiled = torch.compile(module, backend=graphs.backend(), fullgraph=True, dynamic=True)
    for count, lowest in ((5, 0), (8, -1), (13, 0)):
        x, (ids, weights) = tokens(count).requires_grad_(), routed(count, lowest=lowest)
        expected = gradients(module, module, x, ids, weights, tokens(count).cos())
        y = compiled(x, ids, weights.requires_grad_())
        leaves = [x, weights, *module.parameters()]
        for retain in (True, False):
            grads = torch.autograd.grad(y, leaves, tokens(count).cos(), retain_graph=retain)
            close((y, *grads), expected, **CLOSE)
    assert graphs.ours().count("fused_acts.glu_backward_inplace.default") == 1
    assert "fused_acts.grouped_mm.default" in graphs.ours()
    with torch.no_grad():
        close([compiled(x, ids, weights)], [module(x, ids, weights)], **CLOSE)


@pytest.mark.parametrize("form", ["kernel", "inductor"])
def test_compiled_as(form):
    """By Inductor, in the dtype that it has its own grouped_mm for; and by the formula alone."""
    dtype = torch.bfloat16 if form == "kernel" else torch.float32
    module, x, (ids, weights) = experts(dtype, bias=True), tokens(dtype=dtype), routed(lowest=-1)
    weights, graphs = weights.float(), Graphs()
    expected = gradients(module, module, x, ids, weights, x.cos())
    fused_acts.compile_as(form)
    backend = "inductor" if form == "kernel" else graphs.backend()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    actual = gradients(compiled, module, x, ids, weights, x.cos())
    size = max(t.abs().max().item() for t in expected)
    close(actual, expected, rtol=0.0, atol=8 * torch.finfo(dtype).eps * size)
    assert {*graphs.ours()} <= {"fused_acts.grouped_mm.default"}


def test_function_transforms():
    module, x, (ids, weights) = experts(bias=True), tokens(4), routed(4, lowest=-1)
    parameters = dict(module.named_parameters())
    directions = {name: p.cos().detach() for name, p in parameters.items()}

    def ours(parameters, x, weights):
        return torch.func.functional_call(module, parameters, (x, ids, weights))

    def theirs(parameters, x, weights):
        copied = copy.copy(module)
        copied._parameters = parameters
        return looped(copied, x, ids, weights)

    def loss(function):
        return lambda *args: function(*args).square().sum()

    results = []
    for function in (ours, theirs):
        primals = (parameters, x, weights)
        _, moved = torch.func.jvp(function, primals, (directions, x.sin(), weights.sin()))
        by_parameters, by_weights = torch.func.grad(loss(function), (0, 2))(*primals)
        results.append([moved, by_weights, *by_parameters.values()])
    close(*results, **CLOSE)

    batches = torch.stack([x, x.sin()]), torch.stack([weights, weights.cos()])
    mapped = torch.vmap(torch.func.grad(loss(ours)), (None, 0, 0))(parameters, *batches)
    each = [torch.func.grad(loss(ours))(parameters, *pair) for pair in zip(*batches, strict=True)]
    close(mapped.values(), [torch.stack([e[name] for e in each]) for name in mapped], **CLOSE)
    routings = torch.stack([ids, ids.flip(0)])
    mapped = torch.vmap(lambda ids: module(x, ids, weights))(routings)
    close(mapped, [module(x, ids, weights) for ids in routings], **CLOSE)
    curved = torch.func.jvp(torch.func.grad(loss(ours), 1), primals, (directions, x, weights))[1]
    step = 1e-6
    (up, down) = (
        torch.func.grad(loss(ours), 1)(
            {name: p + sign * step * directions[name] for name, p in parameters.items()},
            x + sign * step * x,
            weights + sign * step * weights,
        )
        for sign in (1, -1)
    )
    torch.testing.assert_close(curved, (up - down) / (2 * step), rtol=1e-6, atol=1e-7)


def test_forward_mode():
    module, x, (ids, weights) = experts(bias=True), tokens(), routed()
    expected = torch.func.jvp(lambda x: looped(module, x, ids, weights), (x,), (x.sin(),))
    with forward_ad.dual_level():
        y = forward_ad.unpack_dual(module(forward_ad.make_dual(x, x.sin()), ids, weights))
    close(y, expected, **CLOSE)


def test_transforms_within_compiled_code():
    module, x, (ids, weights) = experts(), tokens(), routed()
    gradient = torch.func.grad(lambda x: module(x, ids, weights).square().sum())
    compiled = torch.compile(gradient, backend="aot_eager", fullgraph=True)
    close([compiled(x)], [gradient(x)], **CLOSE)


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict):
    """A recorded program takes other tokens and routings, and can be trained."""
    module, x, routing = experts(bias=True), tokens(), routed(lowest=-1)
    count = torch.export.Dim("tokens", min=2)
    program = torch.export.export(
        module, (x, *routing), dynamic_shapes=({0: count},) * 3, strict=strict
    ).module()
    x, (ids, weights) = tokens(11), routed(11)
    expected = gradients(module, module, x, ids, weights, x.cos())
    own = dict(program.named_parameters())  # in another order
    leaves = [x.requires_grad_(), weights.requires_grad_()]
    leaves += [own[name] for name, _ in module.named_parameters()]
    y = program(x, ids, weights)
    close((y, *torch.autograd.grad(y, leaves, x.detach().cos())), expected, **CLOSE)


@pytest.mark.parametrize("record", [torch.jit.trace, make_fx], ids=["trace", "make_fx"])
def test_traced(record):
    """By what keeps the sizes that it saw: the routing is another one."""
    module, x, routing = experts(bias=True), tokens(), routed(lowest=-1)
    program = (
        record(module, (x, *routing)) if record is torch.jit.trace else make_fx(module)(x, *routing)
    )
    ids, weights = routed()
    x, weights = x.requires_grad_(), weights.requires_grad_()
    y, grad_y = program(x, ids, weights), x.detach().cos()
    expected = gradients(module, module, x, ids, weights, grad_y)
    close((y, *torch.autograd.grad(y, (x, weights), grad_y)), expected[:3], **CLOSE)


@pytest.mark.parametrize("level", LEVELS)
def test_autocast(level):
    """The products in bfloat16, the gradients in the dtype of the weights, as torch has them."""
    module, x = experts(torch.float32, bias=True, recompute=level), tokens(64, torch.float32)
    ids, weights = routed(64, dtype=torch.float32)
    grad_y = x.cos().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = gradients(module, module, x, ids, weights, grad_y)
    assert actual[0].dtype == torch.bfloat16
    assert {grad.dtype for grad in actual[1:]} == {torch.float32}
    exact = gradients(partial(looped, module), module, x, ids, weights, grad_y.float())
    for a, e in zip(actual, exact, strict=True):
        assert (a - e).abs().max() < 2.0**-6 * e.abs().max()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant):
    module, x, (ids, weights) = experts(), tokens(), routed()
    expected = gradients(module, module, x, ids, weights, x.cos())
    run = partial(checkpoint, module, use_reentrant=reentrant)
    if reentrant:  # which takes no torch.autograd.grad
        x, weights = x.requires_grad_(), weights.requires_grad_()
        y = run(x, ids, weights)
        y.backward(x.detach().cos())
        actual = [y.detach(), x.grad, weights.grad, *(p.grad for p in module.parameters())]
    else:
        actual = gradients(run, module, x, ids, weights, x.cos())
    close(actual, expected, **CLOSE)


def test_saved_tensors_go_through_hooks():
    """As they do to be offloaded; also where what comes back is the same tensor every time."""
    module, x, (ids, weights) = experts(), tokens(), routed()
    expected = gradients(module, module, x, ids, weights, x.cos())
    leaves = [x.requires_grad_(), weights.requires_grad_(), *module.parameters()]
    for pack, unpack in ((torch.clone, torch.clone), (lambda t: t, lambda t: t)):
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            y = module(x, ids, weights)
        for retain in (True, False):
            grads = torch.autograd.grad(y, leaves, x.detach().cos(), retain_graph=retain)
            close((y, *grads), expected, **CLOSE)


@pytest.mark.parametrize("name", ["x", "ids", "weights"])
def test_a_changed_input_is_noticed(name):
    given = dict(zip(("ids", "weights"), routed(), strict=True), x=tokens())
    module, given = experts(), {key: tensor.clone() for key, tensor in given.items()}
    y = module(given["x"], given["ids"], given["weights"])
    given[name].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


class Scale(torch.nn.Module):
    def forward(self, values):
        return values * 0.5


def test_parametrized_weights():
    module, plain, x, routing = experts(bias=True), experts(bias=True), tokens(), routed()
    for name in ("gate_up_proj", "down_proj", "down_proj_bias"):
        parametrize.register_parametrization(module, name, Scale())
        getattr(plain, name).data *= 0.5
    y = module(x, *routing)
    close([y], [plain(x, *routing)], **CLOSE)
    y.sum().backward()
    assert module.parametrizations.gate_up_proj.original.grad.abs().sum() > 0


def test_plain_tensors_in_the_place_of_parameters():
    """As FSDP has them: views of what it gathered."""
    module, x, routing = experts(bias=True), tokens(), routed()
    expected, gathered = module(x, *routing), []
    for name, _ in list(module.named_parameters()):
        view = getattr(module, name).detach().clone().requires_grad_()
        delattr(module, name)
        setattr(module, name, view)
        gathered.append(view)
    y = module(x, *routing)
    assert same_bits(y, expected)
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(y.sum(), gathered))


def test_weights_that_are_no_plain_tensors():
    """They are composed of torch's operations, which are theirs to define."""
    module, x, (ids, weights) = experts(bias=True), tokens(), routed(lowest=-1)
    expected = gradients(module, module, x, ids, weights, x.cos())
    for name, parameter in list(module.named_parameters()):
        both = TwoTensor(parameter.detach(), parameter.detach())
        setattr(module, name, torch.nn.Parameter(both))
    actual = gradients(module, module, x, ids, weights, x.cos())
    close([t.a if isinstance(t, TwoTensor) else t for t in actual], expected, **CLOSE)


@pytest.mark.parametrize("form", ["packed", "transposed", "separate", "Mixtral's"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", ["gate_up", "interleaved"])
def test_checkpoints_of_others(form, bias, layout):
    """In any of the forms, within another module, nothing missing or left."""
    source, x, routing = experts(bias=bias, layout=layout), tokens(), routed()
    names = ("w1", "w3", "w2") if form == "Mixtral's" else ("gate_proj", "up_proj", "down_proj")
    form = "separate" if form == "Mixtral's" else form
    state = source.export_state_dict(form, names=names, prefix="layers.0.experts.")
    if form == "separate":
        gate = state[f"layers.0.experts.3.{names[0]}.weight"]
        rows = slice(0, D_FF) if layout == "gate_up" else slice(0, None, 2)
        assert torch.equal(gate, source.gate_up_proj[3, rows])
    keys, other = list(state), GatedExperts(EXPERTS, D_MODEL, D_FF, bias=bias, layout=layout)
    layer = torch.nn.ModuleDict({"experts": other.double()})
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer])})
    model.load_state_dict(state)
    assert list(state) == keys
    assert same_bits(other(x, *routing), source(x, *routing))
    for key in keys[:3]:
        rest = {name: value for name, value in state.items() if name != key}
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(rest)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layers\.0\.w4"):
        model.load_state_dict({**state, "layers.0.w4": torch.ones(1)})


def test_square_matrices():
    """Which way they lie is told by the others."""
    for sizes in ((8, 8), (8, 4)):
        source, other = GatedExperts(3, *sizes), GatedExperts(3, *sizes)
        for form in ("packed", "transposed", "separate"):
            state = source.export_state_dict(form)
            other.load_state_dict(state)
            assert same_bits(other.gate_up_proj, source.gate_up_proj)
            assert same_bits(other.down_proj, source.down_proj)
        square = "down_proj" if sizes == (8, 8) else "gate_up_proj"
        with pytest.raises(ValueError, match=f"{square}: expected no square matrices alone"):
            other.load_state_dict({square: state_of(source)[square]}, strict=False)


def state_of(module):
    return dict(module.state_dict())


def test_own_state_dict():
    module, file = experts(bias=True), io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    state = torch.load(file)
    names = ["gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias"]
    assert list(state) == names == list(module.export_state_dict("packed"))
    other = GatedExperts(EXPERTS, D_MODEL, D_FF, bias=True).double()
    other.load_state_dict(state)
    assert same_bits(other(tokens(), *routed()), module(tokens(), *routed()))
    with pytest.raises(ValueError, match="form: expected one of packed, transposed, separate"):
        module.export_state_dict("x")
