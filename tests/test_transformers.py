"""Patched models compute what they did: every family, its values, gradients and tokens."""

import copy
import warnings

import pytest
import torch
from tolerances import MODEL_ERROR_RATIO, check_model
from transformers_cases import (
    MODELS,
    WITH_EXPERTS,
    FusedCalls,
    check_runs,
    inputs,
    make,
    run,
)

from fused_acts.integrations.transformers import patch, unpatch

BITWISE = [family for family in MODELS if family != "t5"]  # gelu_new is several operations
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("family", MODELS)
def test_report(family):
    model = make(family)
    report = patch(model)
    assert len(report) == (4 if family == "t5" else 2)
    assert report == report.fused == dict.fromkeys(report, MODELS[family][2])


@pytest.mark.parametrize("family", MODELS)
def test_logits_loss_and_gradients(family):
    model = make(family)
    before = run(model, family)
    patch(model)
    check_runs(run(model, family), before)


@pytest.mark.parametrize("family", MODELS)
def test_every_gate_is_one_call(family):
    model = make(family)
    gates = len(patch(model))
    with FusedCalls() as calls, torch.no_grad():
        model(**inputs(family))
    packed = "gate_up_proj" in MODELS[family][2] or "Wi" in MODELS[family][2]
    assert (calls.count, calls.packed) == (gates, gates if packed else 0)


@pytest.mark.parametrize("family", BITWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager_rounding_is_bitwise(family, dtype):
    model = make(family).to(dtype)
    with torch.no_grad():
        before = model(**inputs(family)).logits
        assert not patch(model, rounding="eager").kept
        assert torch.equal(model(**inputs(family)).logits, before)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("family", WITH_EXPERTS)
def test_implementations_of_experts(family, implementation):
    """Also one that is set after patching."""
    model = make(family)
    patch(model)
    model.set_experts_implementation(implementation)
    patched = run(model, family)
    with FusedCalls() as calls, torch.no_grad():
        model(**inputs(family))
    assert calls.packed == calls.count >= 2
    unpatch(model)
    before = run(model, family)
    check_runs(patched, before)
    patch(model, rounding="eager")
    assert torch.equal(run(model, family)[0], before[0])


def test_experts_by_themselves():
    """Without an implementation they run the eager one."""
    module = make("mixtral").model.layers[0].mlp.experts
    module.config._experts_implementation = None
    index = torch.tensor([[0, 1], [3, 2], [1, 3]])
    args = torch.randn(3, 32), index, torch.rand(3, 2)
    before = module(*args)
    patch(module)
    with FusedCalls() as calls:
        out = module(*args)
    assert calls.packed == 1
    check_model(out, before)


@pytest.mark.parametrize("family", ["t5", "modernbert"])
def test_dropout_of_the_product_stays(family):
    model = make(family, **{"dropout_rate" if family == "t5" else "mlp_dropout": 0.1})

    def seeded():
        torch.manual_seed(2)
        return run(model, family)

    before = seeded()
    patch(model)
    check_runs(seeded(), before)


def test_t5_with_a_down_projection_in_float32():
    model = make("t5").bfloat16()
    for name, module in model.named_modules():
        if name.endswith("wo"):
            module.float()
    before = model(**inputs("t5")).loss
    patch(model)
    dtypes = set()
    wo = model.decoder.block[1].layer[2].DenseReluDense.wo
    wo.register_forward_pre_hook(lambda _, args: dtypes.add(args[0].dtype))
    torch.testing.assert_close(model(**inputs("t5")).loss, before)
    assert dtypes == {torch.float32}


class Int8(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().max() / 127
        self.weight = torch.nn.Parameter((linear.weight / self.scale).to(torch.int8), False)

    def forward(self, x):
        assert x.dtype == torch.float32
        return torch.nn.functional.linear(x, self.weight * self.scale)


def test_t5_with_a_quantised_down_projection():
    module = make("t5").encoder.block[0].layer[1].DenseReluDense
    module.wo = Int8(module.wo)
    x = torch.randn(5, 32)
    before = module(x)
    patch(module)
    check_model(module(x), before)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_bfloat16_is_no_farther_from_float32(family):
    model = make(family).bfloat16()
    exact = run(copy.deepcopy(model).float(), family)
    before = run(model, family)
    patch(model)
    patched = run(model, family)

    def errors(result):
        logits, _, grads = result
        yield (logits.float() - exact[0]).norm()
        yield torch.cat(
            [(grads[n].float() - grad).flatten() for n, grad in exact[2].items()]
        ).norm()

    for error, error_before in zip(errors(patched), errors(before), strict=True):
        assert error <= MODEL_ERROR_RATIO * error_before


@pytest.mark.parametrize("family", [family for family in MODELS if family != "modernbert"])
def test_generates_the_same_tokens(family):
    model = make(family).eval()
    options = {"max_new_tokens": 8, "do_sample": False}
    ids = inputs(family)["input_ids"]
    before = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    patch(model)
    with FusedCalls() as calls:
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert calls.count
    assert torch.equal(tokens, before)
