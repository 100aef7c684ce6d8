"""What a patched model is otherwise: copied, saved, compiled, hooked, unpatched, as before."""

import functools
import subprocess
import sys
import warnings

import pytest
import torch
from tolerances import check_model
from transformers_cases import FusedCalls, check_runs, inputs, make, run

import fused_acts
from fused_acts.integrations.transformers import patch, unpatch

FAMILIES = ("llama", "phi3", "t5", "mixtral", "gpt_oss")


def logits_of(model, family):
    with torch.no_grad():
        return model(**inputs(family)).logits


def calls_of(model, family):
    with FusedCalls() as calls:
        logits_of(model, family)
    return calls.count


def own_attributes(model):
    return {name: dict(vars(module)) for name, module in model.named_modules()}


@pytest.mark.parametrize("family", FAMILIES)
def test_unpatch_restores(family):
    model = make(family)
    before, attributes = logits_of(model, family), own_attributes(model)
    patch(model)
    assert own_attributes(model) != attributes
    unpatch(model)
    assert own_attributes(model) == attributes
    assert torch.equal(logits_of(model, family), before)
    unpatch(model)
    assert own_attributes(model) == attributes


def test_patching_twice_takes_the_last_rounding():
    model = make("llama")
    before = logits_of(model, "llama")
    report = patch(model)
    single = logits_of(model, "llama")
    assert not torch.equal(single, before)
    assert patch(model, rounding="eager") == report
    assert torch.equal(logits_of(model, "llama"), before)
    assert patch(model) == patch(model) == report
    assert torch.equal(logits_of(model, "llama"), single)
    unpatch(model)
    assert torch.equal(logits_of(model, "llama"), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load(family, tmp_path):
    model = make(family)
    keys = list(model.state_dict())
    patch(model)
    assert list(model.state_dict()) == keys
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).train()
    assert calls_of(loaded, family) == 0
    patch(loaded)
    assert torch.equal(logits_of(loaded, family), logits_of(model, family))


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_oss"])
def test_compiles_to_one_graph(family):
    model = make(family)
    before = run(model, family)
    patch(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    check_runs(run(compiled, family), before)
    torch._dynamo.reset()


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_gradient_checkpointing(family):
    model = make(family)
    patch(model)
    _, _, grads = run(model, family)
    model.activation_checkpointing_enable()
    with FusedCalls() as calls:
        _, _, checkpointed = run(model, family)
    assert calls.count == 4  # two layers, each once more in the backward pass
    for name, grad in grads.items():
        assert torch.equal(checkpointed[name], grad)


def test_autocast():
    model = make("llama")
    with torch.autocast("cpu", torch.bfloat16):
        before = logits_of(model, "llama")
        patch(model, rounding="eager")
        assert torch.equal(logits_of(model, "llama"), before)


class InBFloat16(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).bfloat16()


def test_projections_of_two_dtypes():
    mlp = make("llama").model.layers[0].mlp
    mlp.gate_proj.__class__ = InBFloat16
    patch(mlp)
    x = torch.randn(5, 32)
    product = fused_acts.swiglu(mlp.gate_proj(x).float(), mlp.up_proj(x))
    assert torch.equal(mlp(x), mlp.down_proj(product))


class LowRank(torch.nn.Module):
    """A projection with a trained addition, as adapters put around one."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.a = torch.nn.Linear(base.in_features, 2)
        self.b = torch.nn.Linear(2, base.out_features)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


@pytest.mark.parametrize("patched_first", [True, False])
def test_adapters_and_hooks_on_projections(patched_first):
    model = make("llama")
    if patched_first:
        patch(model)
    for layer in model.model.layers:
        layer.mlp.gate_proj = LowRank(layer.mlp.gate_proj)
    if not patched_first:
        patch(model)
    seen = []
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: seen.append("down"))
    model.model.layers[0].mlp.register_forward_hook(lambda *_: seen.append("mlp"))
    with FusedCalls() as calls:
        patched = run(model, "llama")
    assert (seen, calls.count) == (["down", "mlp"], 2)
    assert patched[2]["model.layers.0.mlp.gate_proj.a.weight"].abs().max() > 0
    unpatch(model)
    check_runs(patched, run(model, "llama"))


def hook_as_accelerate_does(module, seen):
    module._old_forward = own = module.forward

    def forward(module, *args):
        seen.append(module)
        return module._old_forward(*args)

    module.forward = functools.update_wrapper(functools.partial(forward, module), own)


@pytest.mark.parametrize("patched_first", [True, False])
def test_hooks_of_accelerate(patched_first):
    model, seen = make("llama"), []
    before = logits_of(model, "llama")
    mlps = [layer.mlp for layer in model.model.layers]
    if patched_first:
        patch(model)
    for mlp in mlps:
        hook_as_accelerate_does(mlp, seen)
    if not patched_first:
        patch(model)
    assert calls_of(model, "llama") == 2
    assert seen == mlps
    check_model(logits_of(model, "llama"), before)
    unpatch(model)
    assert torch.equal(logits_of(model, "llama"), before)
    assert seen == mlps * 3


def test_on_the_meta_device():
    with torch.device("meta"):
        model = make("llama")
        patch(model)
    with FusedCalls() as calls:
        model(input_ids=torch.ones(1, 4, dtype=torch.long, device="meta"))
    assert calls.count == 2


def test_transformers_is_not_imported():
    code = (
        "import sys, torch, fused_acts.integrations.transformers as it;"
        "it.patch(torch.nn.Linear(1, 1));"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_arguments():
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module, got str"):
        patch("llama")
    model = make("llama")
    with pytest.raises(ValueError, match="rounding: expected one of single, eager, got 'exact'"):
        patch(model, rounding="exact")


def test_the_off_switch(monkeypatch):
    model = make("llama")
    attributes = own_attributes(model)
    monkeypatch.setenv("FUSED_ACTS_DISABLE", "1")
    with pytest.warns(UserWarning, match="nothing is patched, as FUSED_ACTS_DISABLE is 1"):
        report = patch(model)
    assert report == {} and str(report) == report.disabled
    assert own_attributes(model) == attributes
    monkeypatch.setenv("FUSED_ACTS_DISABLE", "0")
    assert patch(model).fused and not patch(model).disabled


def test_a_part_of_a_model():
    mlp = make("llama").model.layers[0].mlp
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert patch(mlp) == {"": "swiglu(gate_proj, up_proj)"}
    assert str(patch(mlp)) == "model: swiglu(gate_proj, up_proj)"
