"""nn.GatedExperts: the values and gradients of a loop over experts, at every level."""

import copy
import pickle
from contextlib import nullcontext
from functools import partial
from itertools import product

import pytest
import torch
from cases import DEVICES, VARIANTS, same_bits
from expert_cases import (
    D_FF,
    D_MODEL,
    EXPERTS,
    LEVELS,
    ROUTINGS,
    close,
    experts,
    gradients,
    looped,
    routed,
    tokens,
)
from ffn_cases import Calls, relative
from tolerances import CLOSE, FFN_ERROR_RATIO
from torch.autograd import gradcheck, gradgradcheck

from fused_acts._autograd import grouped
from fused_acts._autograd.experts import Inputs
from fused_acts._autograd.experts import experts as function
from fused_acts._call import VARIANT_INDEX, resolve
from fused_acts.nn import GatedExperts

FORMS = [
    {"bias": bias, "layout": layout, "recompute": level}
    for (bias, layout), level in product(
        ((False, "gate_up"), (True, "interleaved"), (True, "up_gate")), LEVELS
    )
]


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_and_gradients(form, routing):
    ids, module = ROUTINGS[routing], experts(**form)
    x, weights = tokens(len(ids)), routed(len(ids), max(ids.shape[1], 1))[1][:, : ids.shape[1]]
    actual = gradients(module, module, x, ids, weights, x.cos())
    expected = gradients(partial(looped, module), module, x, ids, weights, x.cos())
    close(actual, expected, **CLOSE)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("level", LEVELS)
def test_devices(level, device):
    module, x, (ids, weights) = experts(bias=True, recompute=level), tokens(), routed(lowest=-1)
    expected = gradients(partial(looped, module), module, x, ids, weights, x.cos())
    x, ids, weights, grad_y = (t.to(device) for t in (x, ids, weights, x.cos()))
    actual = gradients(module.to(device), module, x, ids, weights, grad_y)
    close([t.cpu() for t in actual], expected, **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant):
    module, x, routing = experts(variant=variant, bias=True), tokens(), routed()
    actual = gradients(module, module, x, *routing, x.cos())
    close(actual, gradients(partial(looped, module), module, x, *routing, x.cos()), **CLOSE)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "swiglu", "beta": 1.7, "limit": 0.2},
        {"variant": "swiglu_oai", "layout": "interleaved", "limit": 0.1},
        {"variant": "geglu", "layout": "interleaved", "block": 4},
    ],
    ids=str,
)
def test_options(options):
    module, x, routing = experts(bias=True, **options), tokens(), routed()
    actual = gradients(module, module, x, *routing, x.cos())
    close(actual, gradients(partial(looped, module), module, x, *routing, x.cos()), **CLOSE)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("weights_in", [None, torch.float32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_no_less_accurate_than_torch(dtype, weights_in, form):
    """Against float64, with the same rounded weights: each result within a factor of torch's."""
    module, x = experts(dtype=dtype, **form), tokens(64, dtype)
    ids, weights = routed(64, dtype=weights_in or dtype)
    actual = gradients(module, module, x, ids, weights, x.cos())
    eager = gradients(partial(looped, module), module, x, ids, weights, x.cos())
    wide = copy.deepcopy(module).double()
    exact = gradients(
        partial(looped, wide), wide, x.double(), ids, weights.double(), x.cos().double()
    )
    assert [t.dtype for t in actual] == [t.dtype for t in eager]
    for ours, theirs in zip(relative(actual, exact), relative(eager, exact), strict=True):
        assert ours <= FFN_ERROR_RATIO * max(theirs, torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_levels_agree(dtype):
    """What is computed again is the same to the last bit."""
    results = []
    for level in LEVELS:
        module, x = experts(dtype=dtype, recompute=level, bias=True), tokens(dtype=dtype)
        results.append(gradients(module, module, x, *routed(dtype=torch.float32), x.cos()))
    for others in results[1:]:
        assert all(map(same_bits, results[0], others))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_backward_twice(form):
    """The second time over gate and up have been overwritten by their gradients."""
    module, x, (ids, weights) = experts(**form), tokens().requires_grad_(), routed()
    y = module(x, ids, weights.requires_grad_())
    wanted = [x, weights, *module.parameters()]
    first = torch.autograd.grad(y, wanted, tokens(), retain_graph=True)
    second = torch.autograd.grad(y, wanted, tokens())
    assert all(map(same_bits, first, second))


def test_a_pass_that_only_reads_leaves_gate_and_up():
    """And so the next one need not compute them again."""
    module = experts()
    module.gate_up_proj.requires_grad_(False)
    y = module(tokens(), *routed())
    for _ in range(2):
        with Calls() as calls:
            torch.autograd.grad(y, module.down_proj, tokens(), retain_graph=True)
        assert calls.names.count("grouped_mm") == 1


@pytest.mark.parametrize("level", LEVELS)
def test_frozen_parts(level):
    """Every choice of what requires grad: those gradients, and no product for the others."""
    module, x, (ids, weights) = experts(bias=True, recompute=level), tokens(), routed()
    leaves = {"x": x, "weights": weights, **dict(module.named_parameters())}
    whole = gradients(module, module, x, ids, weights, x.cos())[1:]
    expected = dict(zip(leaves, whole, strict=True))
    for chosen in product((True, False), repeat=len(leaves)):
        names = [name for name, keep in zip(leaves, chosen, strict=True) if keep]
        if not names:
            continue
        for name, leaf in leaves.items():
            leaf.requires_grad_(name in names)
        y = module(x, ids, weights)
        with Calls() as calls:
            grads = torch.autograd.grad(y, [leaves[name] for name in names], x.detach().cos())
        close(grads, [expected[name] for name in names], **CLOSE)
        hidden = {"x", "weights", "gate_up_proj", "gate_up_proj_bias"} & {*names}
        products = sum(name in names for name in ("x", "gate_up_proj", "down_proj"))
        products += bool(hidden)  # through down
        products += level == "all" and bool(hidden or "down_proj" in names)
        assert calls.names.count("grouped_mm") == products, names


def test_nothing_else_is_written():
    module, x, (ids, weights) = experts(bias=True), tokens().requires_grad_(), routed()
    given = (x, ids, weights.requires_grad_(), x.detach().cos(), *module.parameters())
    before, versions = [t.detach().clone() for t in given], [t._version for t in given]
    module(x, ids, weights).backward(given[3])
    assert all(map(torch.equal, before, given))
    assert versions == [t._version for t in given]


@pytest.fixture
def poisoned(monkeypatch):
    """What nobody wrote in a product of groups is NaN."""
    whole = grouped._one_by_one

    def one_by_one(a, b, offs):
        out = whole(a, b, offs)
        if b.dim() == 3:
            out[offs[-1] :] = torch.nan
        return out

    monkeypatch.setattr(grouped, "_one_by_one", one_by_one)


@pytest.mark.parametrize("way", ["kernels", "operators", "create_graph"])
@pytest.mark.parametrize("level", LEVELS)
def test_padding_is_not_read(level, way, poisoned):
    """Neither what nobody wrote nor tokens of no expert, whatever they and their gradients hold."""
    module, x = experts(bias=True, recompute=level), tokens()
    ids, weights = routed(lowest=-2)
    ids[:2], grad_y = -1, x.cos()
    expected = gradients(partial(looped, module), module, x, ids, weights, grad_y)
    x[:2], grad_y[:2] = torch.nan, torch.nan
    weights = torch.where((ids >= 0) & (ids < EXPERTS), weights, torch.nan)
    with Calls() if way == "operators" else nullcontext():
        x, weights = x.requires_grad_(), weights.requires_grad_()
        y, wanted = module(x, ids, weights), [x, weights, *module.parameters()]
        grads = torch.autograd.grad(y, wanted, grad_y, create_graph=way == "create_graph")
    close([y, *grads], expected, **CLOSE)


@pytest.mark.parametrize("weight", [0.0, torch.inf, torch.nan])
def test_unusual_weights(weight):
    """What is not finite stays with its token, and with its expert's gradients."""
    module, x, (ids, weights) = experts(bias=True), tokens(), routed()
    weights[3, 1] = weight
    actual = gradients(module, module, x, ids, weights, x.cos())
    expected = gradients(partial(looped, module), module, x, ids, weights, x.cos())
    for a, e in zip(actual, expected, strict=True):
        # An infinite weight is one before the product with down, which may add up to NaN.
        assert torch.equal(a.isfinite(), e.isfinite())
        torch.testing.assert_close(a[a.isfinite()], e[e.isfinite()], **CLOSE)


def test_an_expert_without_tokens_may_hold_anything():
    module, x, (ids, weights) = experts(bias=True), tokens(), routed()
    ids = ids.clamp(max=module.num_experts - 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[-1] = torch.nan
    results = gradients(module, module, x, ids, weights, x.cos())
    assert all(result.isfinite().all() for result in results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_token_does_not_depend_on_others(dtype):
    """Nor its rounding: sums that lie between two numbers go to the even one."""
    module, x, (ids, weights) = experts(dtype=dtype), tokens(64, dtype), routed(64, dtype=dtype)
    other = ids.clone()
    other[-1] = -1
    assert same_bits(module(x, ids, weights)[:-1], module(x, other, weights)[:-1])


@pytest.mark.parametrize("form", FORMS[3:6], ids=str)
def test_double_backward(form):
    module, x, (ids, weights) = experts(**form), tokens(3), routed(3, lowest=-1)
    names = [name for name, _ in module.named_parameters()]

    def call(x, weights, *values):
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, named, (x, ids, weights))

    inputs = (x.requires_grad_(), weights.requires_grad_(), *module.parameters())
    few = {"eps": 1e-6, "atol": 1e-6, "fast_mode": True}
    assert gradcheck(call, inputs, **few)
    assert gradgradcheck(call, inputs, **few)


@pytest.mark.parametrize("level", LEVELS)
def test_double_backward_of_inputs_that_depend_on_each_other(level):
    """Experts on themselves, and weights that a router makes of x."""
    module, router = experts(recompute=level), torch.randn(D_MODEL, 2, dtype=torch.float64)
    ids, leaves = routed()[0], [tokens().requires_grad_(), *module.parameters()]
    x = leaves[0]
    for given in (x, module(x, ids, (x @ router).softmax(-1))):
        y = module(given, ids, (given @ router).softmax(-1))
        plain, recorded = (
            torch.autograd.grad(y, leaves, tokens(), retain_graph=True, create_graph=create)
            for create in (False, True)
        )
        close(recorded, plain, **CLOSE)


@pytest.mark.parametrize("level", LEVELS)
def test_many_gradients_at_once(level):
    module, x, (ids, weights) = experts(recompute=level, bias=True), tokens(), routed()
    leaves = [x.requires_grad_(), weights.requires_grad_(), *module.parameters()]
    y = module(x, ids, weights)
    grads_y = torch.stack([tokens(), tokens().cos()])
    each = [torch.autograd.grad(y, leaves, g, retain_graph=True) for g in grads_y]
    batched = torch.autograd.grad(y, leaves, grads_y, is_grads_batched=True)
    close(batched, map(torch.stack, zip(*each, strict=True)), **CLOSE)


@pytest.mark.parametrize("sizes", [(5, 3), (1, 1), (24, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sizes_that_grouped_mm_does_not_take(dtype, sizes):
    torch.manual_seed(0)
    module = GatedExperts(EXPERTS, *sizes, bias=True, dtype=dtype)
    x, (ids, weights) = tokens(16, dtype)[:, : sizes[0]].contiguous(), routed(16, dtype=dtype)
    wide = copy.deepcopy(module).double()
    actual = gradients(module, module, x, ids, weights, x.cos())
    exact = gradients(
        partial(looped, wide), wide, x.double(), ids, weights.double(), x.cos().double()
    )
    assert max(relative(actual, exact)) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_transposed_weights(dtype):
    """As gpt-oss has them: views of [experts, in, out], whose gradients lie as they do."""
    module, x, (ids, weights) = experts(dtype), tokens(dtype=dtype), routed(dtype=dtype)
    expected = gradients(module, module, x, ids, weights, x.cos())
    call = resolve(VARIANT_INDEX["swiglu"], "gate_up", {})
    transposed = [
        p.detach().transpose(1, 2).contiguous().requires_grad_() for p in module.parameters()
    ]
    x, weights = x.requires_grad_(), weights.requires_grad_()
    gate_up, down = (t.transpose(1, 2) for t in transposed)
    y = function(call, "product", Inputs(x, gate_up, None, down, None), ids, weights)
    by_x, by_weights, *grads = torch.autograd.grad(y, [x, weights, *transposed], x.detach().cos())
    assert all(grad.is_contiguous() for grad in grads)
    actual = [y.detach(), by_x, by_weights, *(grad.transpose(1, 2) for grad in grads)]
    close(actual, expected, rtol=1e-5, atol=1e-6)


def test_shapes_and_views():
    module, (ids, weights) = experts(), routed(6)
    x = tokens(6)
    expected = module(x, ids, weights)
    for shape in ((2, 3), (1, 6, 1)):
        y = module(x.view(*shape, -1), ids.view(*shape, -1), weights.view(*shape, -1))
        assert same_bits(y, expected.view(*shape, -1))
        assert same_bits(module(x.view(*shape, -1), ids, weights), y)
    x, weights = x.t().contiguous().t(), weights.t().contiguous().t()
    grad_y = tokens(1).cos().expand(6, -1)
    actual = gradients(module, module, x, ids, weights, grad_y)
    close(actual, gradients(partial(looped, module), module, x, ids, weights, grad_y), **CLOSE)
    assert module(tokens(1)[0], ids[:1], weights[:1]).shape == (D_MODEL,)


def test_without_gradients():
    module, x, routing = experts(), tokens(), routed()
    expected = module(x, *routing).detach()
    with torch.no_grad():
        assert same_bits(module(x, *routing), expected)
    with torch.inference_mode():
        assert same_bits(module(x, *routing), expected)


def test_meta_device():
    module = GatedExperts(EXPERTS, 8, 16, bias=True, device="meta")
    x, (ids, weights) = torch.empty(7, 8, device="meta"), (t.to("meta") for t in routed())
    assert module(x, ids, weights).shape == (7, 8)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"recompute: expected one of none, product, all, got 'x'"):
        GatedExperts(4, 8, 16, recompute="x")
    with pytest.raises(ValueError, match="variant: expected one of"):
        GatedExperts(4, 8, 16, "swish")
    with pytest.raises(ValueError, match="layout: expected one of"):
        GatedExperts(4, 8, 16, layout="x")
    with pytest.raises(TypeError, match="limit: bilinear has no such option"):
        GatedExperts(4, 8, 16, "bilinear", limit=1.0)
    own = {"inplace_backward": True, "weight": 2.0, "padding": "zero", "rounding": "eager"}
    for name, value in (own | {"offs": None}).items():
        with pytest.raises(TypeError, match=f"{name}: GatedExperts has no such option"):
            GatedExperts(4, 8, 16, **{name: value})
    module, x, (ids, weights) = experts(), tokens(), routed()
    with pytest.raises(ValueError, match=r"x: expected \[\.\.\., 24\], got \(7, 23\)"):
        module(x[:, 1:], ids, weights)
    with pytest.raises(TypeError, match=r"expert_ids: expected integers, got torch.float64"):
        module(x, weights, weights)
    with pytest.raises(ValueError, match=r"expert_ids: expected \[tokens, k\] for 6 tokens, got"):
        module(x[1:], ids, weights)
    with pytest.raises(ValueError, match="expert_weights: expected the shape of expert_ids"):
        module(x, ids, weights[:, :1])


def test_copies_and_text():
    module, x, routing = experts(variant="geglu", recompute="all", bias=True), tokens(), routed()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same_bits(other(x, *routing), module(x, *routing))
    assert repr(module) == (
        f"GatedExperts({EXPERTS}, {D_MODEL}, {D_FF}, variant='geglu', bias=True, layout='gate_up', "
        "recompute='all')"
    )
    bound = D_MODEL**-0.5
    assert 0.9 * bound < module.gate_up_proj.abs().max() <= bound
