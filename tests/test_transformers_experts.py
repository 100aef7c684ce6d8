"""experts_implementation="fused_acts" computes what transformers' own implementations do."""

import copy

import pytest
import torch
from ffn_cases import measured
from tolerances import EXPERTS_ERROR_RATIO, check_model
from torch import nn
from transformers_cases import FusedCalls, check_kept, check_runs, inputs, run
from transformers_experts import (
    FAMILIES,
    class_of,
    classes,
    experts_of,
    is_experts,
    model_of,
    routed,
)

from fused_acts.integrations.transformers import patch, register, unpatch

moe = pytest.importorskip("transformers.integrations.moe")
NAME = "fused_acts"
NO_GATE, NORM = "nemotron_h.NemotronHExperts", "muse_spark.MuseSparkExperts"


@pytest.fixture(autouse=True)
def registered():
    register()


def untried():
    """A class that no other test has used, so that its gate is not known yet."""

    class Mixtral(class_of("mixtral.MixtralExperts")):
        def _apply_gate(self, gate_up):
            return super()._apply_gate(gate_up)

    return Mixtral


def output_and_gradients(module, implementation, x, index, weights):
    module.config._experts_implementation = implementation
    leaves = [x.clone().requires_grad_(), weights.clone().requires_grad_(), *module.parameters()]
    y = module(leaves[0], index, leaves[1])
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def check_like(module, implementation, *args):
    expected = output_and_gradients(module, implementation, *args)
    with FusedCalls() as calls:
        results = output_and_gradients(module, NAME, *args)
    assert calls.packed == 1
    for actual, right in zip(results, expected, strict=True):
        assert actual.dtype == right.dtype
        check_model(actual, right)


@pytest.mark.parametrize("kind", [*classes()], ids=lambda kind: kind.__name__)
def test_every_class_of_experts(kind):
    check_like(experts_of(kind), "eager", *routed())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_gradients(family):
    model = model_of(family)
    model.set_experts_implementation("eager")
    before = run(model, family)
    model.set_experts_implementation(NAME)
    with FusedCalls() as calls:
        result = run(model, family)
    assert calls.packed == sum(map(is_experts, model.modules())) == 2
    check_runs(result, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_generates_the_same_tokens(family):
    model = model_of(family).eval()
    ids = inputs(family)["input_ids"]
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    before = model.generate(ids, **options)
    model.set_experts_implementation(NAME)
    with FusedCalls() as calls:
        assert torch.equal(model.generate(ids, **options), before)
    assert calls.packed == 2 * 8


@pytest.mark.parametrize("family", FAMILIES)
def test_patched_models_compute_the_same(family):
    model = model_of(family).eval()
    model.set_experts_implementation(NAME)
    before = model(**inputs(family)).logits
    model.set_experts_implementation("grouped_mm")
    experts = [module for module in model.modules() if is_experts(module)]
    for module in experts:
        assert [text.endswith("whole experts") for text in patch(module).values()] == [True]
    assert torch.equal(model(**inputs(family)).logits, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", ["mixtral.MixtralExperts", "gpt_oss.GptOssExperts"])
def test_nearer_to_the_exact_values(path, dtype):
    """By themselves: in a model a token that goes to another expert is more than all roundings."""
    module, (x, index, weights) = experts_of(class_of(path)).to(dtype), routed(tokens=256)
    module.limit = 7.0  # where next to nothing is clamped
    args = x.to(dtype), index, weights.to(dtype)
    doubles = args[0].double(), index, args[2].double()
    exact = output_and_gradients(copy.deepcopy(module).double(), "eager", *doubles)
    results = [output_and_gradients(module, name, *args) for name in ("grouped_mm", NAME)]
    for before, after, right in zip(*results, exact, strict=True):
        error = (before.double() - right).norm()
        assert (after.double() - right).norm() <= EXPERTS_ERROR_RATIO * error


def test_keeps_gate_and_up_alone():
    module, (x, index, weights) = experts_of(class_of("mixtral.MixtralExperts")), routed(tokens=512)
    x.requires_grad_()
    kept = {}
    for name in ("grouped_mm", NAME):
        module.config._experts_implementation = name
        kept[name], _ = measured(lambda x: module(x, index, weights), x, [*module.parameters()])
    k, d_ff, ids = 2, 48, 2 * 8
    floats, ints = 32 + k + 2 * k * d_ff, 2 * ids  # ids, and the order of their sort
    assert 4 * floats <= kept[NAME] <= 4 * floats + ints + 8
    assert kept["grouped_mm"] > 1.5 * kept[NAME]


def test_chosen_by_name_in_configurations_and_files(tmp_path):
    model = model_of("mixtral").eval()
    kind, config = type(model), type(model.config)
    model.set_experts_implementation(NAME)
    logits = model(**inputs("")).logits
    model.save_pretrained(tmp_path)
    options = model.config.to_dict() | {"experts_implementation": NAME}
    for other in (
        kind.from_pretrained(tmp_path, experts_implementation=NAME),
        kind(config(**options)).eval(),
        copy.deepcopy(model),
    ):
        other.load_state_dict(model.state_dict())
        with FusedCalls() as calls:
            assert torch.equal(other(**inputs("")).logits, logits)
        assert calls.packed == 2
    assert NAME not in (tmp_path / "config.json").read_text()
    assert kind.from_pretrained(tmp_path).config._experts_implementation != NAME


@pytest.mark.parametrize("path", ["mixtral.MixtralExperts", "aria.AriaExperts", NO_GATE, NORM])
def test_experts_of_other_processes(path):
    """Their ids are num_experts, as transformers' expert parallelism says it."""
    module = experts_of(class_of(path))
    module._is_expert_parallel = True
    x, index, weights = routed()
    index[::2, 0] = 4
    index[1] = 4
    check_like(module, "batched_mm", x, index, torch.where(index < 4, weights, 0.0))


@pytest.mark.parametrize("path", ["mixtral.MixtralExperts", "gpt_oss.GptOssExperts", NORM])
def test_dtypes(path):
    module, (x, index, weights) = experts_of(class_of(path)), routed()
    module.double()
    if path != NORM:  # which is in float32 whatever it is given
        check_like(module, "eager", x.double(), index, weights.double())
    module.bfloat16()
    result = output_and_gradients(module, NAME, x.bfloat16(), index, weights)
    assert {result[0].dtype, result[1].dtype} == {torch.bfloat16}
    assert result[2].dtype == torch.float32
    # Tokens of another dtype than the weights of the experts, as their norms may make them.
    y = module(x.bfloat16().float(), index, weights)
    assert y.dtype == torch.float32 and torch.equal(y.bfloat16(), result[0])


@pytest.mark.parametrize("path", ["mixtral.MixtralExperts", NO_GATE, NORM])
def test_no_tokens(path):
    module = experts_of(class_of(path))
    results = output_and_gradients(module, NAME, *routed(tokens=0))
    assert results[0].shape == (0, 32) and not any(grad.any() for grad in results[3:])


def test_unknown_gates_are_an_error():
    module = experts_of(class_of("mixtral.MixtralExperts"))
    module.config._experts_implementation = NAME
    module(*routed())
    module.act_fn = nn.Mish()  # later, too
    with pytest.raises(ValueError, match=f'="{NAME}": MixtralExperts has the activation .*Mish'):
        module(*routed())


def test_numbers_may_change():
    module = experts_of(class_of("gpt_oss.GptOssExperts"))
    for module.limit in (0.5, 0.1, 7.0):
        check_like(module, "eager", *routed())


class Scaled(class_of("mixtral.MixtralExperts")):
    def forward(self, *args):
        return 2.0 * super().forward(*args)


def test_classes_around_one():
    check_like(experts_of(Scaled), "eager", *routed())


class Twice(nn.Module):
    def forward(self, weight):
        return 2.0 * weight


def test_weights_that_are_computed():
    """As adapters for the parameters of experts make them."""
    module = experts_of(untried())
    nn.utils.parametrize.register_parametrization(module, "gate_up_proj", Twice())
    check_like(module, "eager", *routed())
    assert patch(module)[""].endswith("whole experts")
    check_like(module, "grouped_mm", *routed())


def test_under_autocast():
    module, (x, index, weights) = experts_of(untried()), routed()
    y = []
    for dtype in (torch.float32, torch.bfloat16):
        module.to(dtype).config._experts_implementation = NAME
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            y.append(module(x.to(dtype), index, weights))
    assert torch.equal(y[0].bfloat16(), y[1].bfloat16())


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("patched", [False, True])
def test_compiles_to_one_graph(patched):
    module, args = experts_of(untried()), routed()
    expected = output_and_gradients(module, "eager", *args)
    if patched:
        patch(module)
    module.compile(fullgraph=True, backend="aot_eager")
    result = output_and_gradients(module, "grouped_mm" if patched else NAME, *args)
    for actual, right in zip(result, expected, strict=True):
        check_model(actual, right)


def test_patch_leaves_other_kernels_their_place(monkeypatch):
    interface = moe.ALL_EXPERTS_FUNCTIONS
    module, args = experts_of(class_of("mixtral.MixtralExperts")), routed()
    expected = module(*args)
    monkeypatch.setitem(interface._global_mapping, "other", lambda *args: "other")
    patch(module)
    module.__class__ = type("Sharded", (type(module),), {})  # as FSDP2 does
    module.config._experts_implementation = "other"
    assert module(*args) == "other"
    module.config._experts_implementation = "grouped_mm"
    check_model(module(*args), expected)
    monkeypatch.setitem(interface._global_mapping, "grouped_mm", lambda *args: "own")
    module.down_proj = nn.Parameter(Quantised(module.down_proj.detach()))
    assert module(*args) == "own"
    assert patch(module) == {"": "swiglu(gate_up_proj, gate_up)"}


class Quantised(torch.Tensor):
    pass


def test_with_the_rounding_of_eager_they_keep_their_order():
    for path in ("mixtral.MixtralExperts", "gpt_oss.GptOssExperts"):
        module, (x, index, weights) = experts_of(class_of(path)).bfloat16(), routed()
        args = x.bfloat16(), index, weights.bfloat16()
        for implementation in ("eager", "grouped_mm"):
            module.config._experts_implementation = implementation
            before = module(*args)
            assert not patch(module, "eager").kept
            assert torch.equal(module(*args), before)
            unpatch(module)
    check_kept(experts_of(class_of(NO_GATE)), "has no gate", "eager")
