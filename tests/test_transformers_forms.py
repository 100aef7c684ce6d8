"""Models whose MLPs or experts have a form of their own compute what they did."""

import functools
import warnings

import pytest
import torch
from transformers_cases import FusedCalls, build, check_runs, inputs, run
from transformers_forms import FORMS

from fused_acts.integrations.transformers import patch, unpatch

PART = 1e-2  # some gradients are rounding alone


def make(family: str):
    name, options, _ = FORMS[family]
    return build(name, options, std=0.1)


def seeded(model):
    torch.manual_seed(2)  # one has a dropout
    return run(model, "")


@pytest.fixture(autouse=True)
def no_warnings(request):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The attention of JetMoE has experts, which are no MLPs.
        warnings.filterwarnings("ignore", ".*JetMoeParallelExperts is no MLP")
        yield


@pytest.mark.parametrize("family", FORMS)
def test_logits_loss_and_gradients(family):
    model = make(family)
    before = seeded(model)
    report = patch(model)
    assert set(report.fused.values()) == FORMS[family][2]
    with FusedCalls() as calls:
        patched = seeded(model)
    assert calls.count >= len(report.fused)
    check_runs(patched, before, part=PART)
    unpatch(model)
    with FusedCalls() as calls:
        assert torch.equal(seeded(model)[0], before[0])
    assert calls.count == 0


@pytest.mark.parametrize("family", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager_rounding_is_bitwise(family, dtype):
    model = make(family).to(dtype)
    forward = functools.partial(model.eval(), inputs("")["input_ids"])
    with torch.no_grad():
        before = forward().logits
        assert patch(model, rounding="eager").fused
        assert torch.equal(forward().logits, before)


@pytest.mark.parametrize("family", FORMS)
def test_generates_the_same_tokens_and_comes_back_from_a_file(family, tmp_path):
    model = make(family).eval()
    ids = inputs("")["input_ids"]
    options = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    before, keys = model.generate(ids, **options), list(model.state_dict())
    report = patch(model)
    assert torch.equal(model.generate(ids, **options), before)
    assert list(model.state_dict()) == keys
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert patch(loaded) == report
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama4", "moshi", "seed_oss"])
def test_compiles_to_one_graph(family):
    model = make(family).eval()
    before = run(model, "")
    patch(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    check_runs(run(compiled, ""), before, part=PART)
    torch._dynamo.reset()
