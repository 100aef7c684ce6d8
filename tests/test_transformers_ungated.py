"""MLPs without a gate in Hugging Face models: what patch fuses of them, and what it leaves."""

import copy

import pytest
import torch
from ffn_cases import measured
from tolerances import MODEL_ERROR_RATIO, check_model
from torch import nn
from transformers_cases import FusedCalls, check_kept, check_runs, transformers

from fused_acts.integrations.transformers import patch, unpatch

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_TEXT = _SIZES | {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GPT = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2} | dict.fromkeys(
    ("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0
)
_BERT = _TEXT | dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
_DISTIL = {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2}
_T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
_GROUPED = {"num_key_value_heads": 1, "head_dim": 16}

# Class, configuration and what patch says of its MLPs.
MODELS = {
    "gpt2": ("GPT2LMHeadModel", _GPT, "gelu_tanh(c_fc)"),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", _GPT, "gelu_tanh(c_fc)"),
    "gptj": ("GPTJForCausalLM", _GPT | {"rotary_dim": 4}, "gelu_tanh(fc_in)"),
    "bert": ("BertForMaskedLM", _BERT, "gelu(dense)"),
    "distilbert": (
        "DistilBertForMaskedLM",
        _DISTIL | {"dropout": 0.0, "attention_dropout": 0.0},
        "gelu(lin1)",
    ),
    "falcon": ("FalconForCausalLM", _TEXT | {"bias": True}, "gelu(dense_h_to_4h)"),
    "gpt_neox": ("GPTNeoXForCausalLM", _TEXT, "gelu(dense_h_to_4h)"),
    "phi": ("PhiForCausalLM", _TEXT | {"partial_rotary_factor": 1.0}, "gelu_tanh(fc1)"),
    "nemotron": ("NemotronForCausalLM", _TEXT | _GROUPED, "squared_relu(up_proj)"),
    "arcee": ("ArceeForCausalLM", _TEXT | {"mlp_bias": True}, "squared_relu(up_proj)"),
    "t5": (
        "T5ForConditionalGeneration",
        _T5 | {"decoder_start_token_id": 0, "dropout_rate": 0.0},
        "relu(wi)",
    ),
    "vit": ("ViTForImageClassification", _SIZES | {"image_size": 8, "patch_size": 2}, "gelu(fc1)"),
}


def make(family, **changes):
    name, options, _ = MODELS[family]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**options | changes)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def run(model, family):
    """(logits, loss, gradients by the name of the parameter)."""
    model.zero_grad()
    generator = torch.Generator().manual_seed(1)
    if family == "vit":
        dtype = next(model.parameters()).dtype
        result = model(torch.randn(2, 3, 8, 8, generator=generator).to(dtype))
    else:
        ids = torch.randint(3, 64, (2, 12), generator=generator)
        decoder = {"decoder_input_ids": ids} if family == "t5" else {}
        result = model(input_ids=ids, **decoder)
    loss = result.logits.square().mean()
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    # Softmax makes nothing of a bias of keys: its gradient is rounding alone, as are others' here.
    least = 1e-6 * max(grad.abs().max() for grad in grads.values())
    grads = {n: grad.clone() for n, grad in grads.items() if grad.abs().max() > least}
    return result.logits.detach(), loss.detach(), grads


@pytest.mark.parametrize("family", MODELS)
def test_logits_loss_and_gradients(family):
    model = make(family)
    keys, before = list(model.state_dict()), run(model, family)
    report = patch(model)
    assert len(report) == (4 if family == "t5" else 2)
    assert report == report.fused == dict.fromkeys(report, MODELS[family][2])
    assert list(model.state_dict()) == keys
    with FusedCalls() as calls:
        check_runs(run(model, family), before)
    assert calls.count == len(report)
    unpatch(model)
    with FusedCalls() as calls:
        assert torch.equal(run(model, family)[0], before[0])
    assert calls.count == 0


@pytest.mark.parametrize("family", ["gpt2", "falcon", "bert"])
def test_bfloat16_is_near_float32(family):
    model = make(family).bfloat16()
    exact = run(copy.deepcopy(model).float(), family)[0]
    before = run(model, family)[0].float()
    patch(model)
    error = (run(model, family)[0].float() - exact).norm()
    assert error <= MODEL_ERROR_RATIO * (before - exact).norm()


def mlp_of(family, **changes):
    return next(iter(make(family, **changes).transformer.h)).mlp


def t5_mlp(**changes):
    return make("t5", **changes).encoder.block[0].layer[1].DenseReluDense


def test_the_activated_product_is_not_kept():
    mlp, x = mlp_of("gpt2", n_inner=48), torch.randn(7, 32).requires_grad_()
    sizes = []
    for change in (unpatch, patch):
        change(mlp)
        sizes.append(measured(mlp, x, [*mlp.parameters()])[1] // 4)
    assert sizes[1] == 32 + 48 <= sizes[0] - 48


def test_hooks_and_other_projections_are_called():
    x, seen = torch.randn(5, 7, 32), []
    for name in ("c_fc", "c_proj", "dropout"):
        mlp = mlp_of("gpt2")
        patch(mlp)
        getattr(mlp, name).register_forward_hook(lambda module, *_: seen.append(module))
        before = mlp(x)
        assert seen.pop() is getattr(mlp, name) and not seen
        unpatch(mlp)
        check_model(mlp(x), before)
        seen.clear()
    mlp = t5_mlp()
    patch(mlp)
    mlp.dropout.register_forward_pre_hook(lambda module, *_: seen.append(module))
    mlp(x)
    assert seen == [mlp.dropout]
    mlp = mlp_of("gpt2")
    patch(mlp)
    mlp.c_fc = nn.Sequential(nn.Dropout(0.0), mlp.c_fc)
    with FusedCalls() as calls:
        out = mlp(x)
    assert calls.count == 1
    unpatch(mlp)
    check_model(out, mlp(x))


def test_dropouts_stay():
    x = torch.randn(5, 7, 32)
    after = mlp_of("gpt2", resid_pdrop=0.5).train()
    between = t5_mlp(dropout_rate=0.5)
    for mlp in (after, between):
        torch.manual_seed(2)
        before = mlp(x)
        patch(mlp)
        torch.manual_seed(2)
        check_model(mlp(x), before)
        assert not torch.equal(mlp(x), before)
        mlp.eval()
        assert torch.equal(mlp(x), mlp(x))


def test_t5_with_a_down_projection_in_float32():
    mlp = t5_mlp().bfloat16()
    mlp.wo.float()
    x = torch.randn(5, 7, 32).bfloat16()
    before = mlp(x)
    patch(mlp)
    assert mlp(x).dtype == before.dtype == torch.float32
    check_model(mlp(x), before)


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiles_to_one_graph():
    mlp, x = mlp_of("gpt2"), torch.randn(5, 7, 32).requires_grad_()
    patch(mlp)
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    grads = [
        torch.autograd.grad(f(x).square().sum(), [x, *mlp.parameters()]) for f in (compiled, mlp)
    ]
    for grad, expected in zip(*grads, strict=True):
        check_model(grad, expected)


def test_what_is_left_alone():
    mlp = mlp_of("gpt2")

    class Scaled(type(mlp)):
        def forward(self, x):
            return self.dropout(self.c_proj(self.act(self.c_fc(x) * 1.01)))

    class Residual(type(mlp)):
        def forward(self, x):
            return x + super().forward(x)

    for kind in (Scaled, Residual):
        mlp.__class__ = kind
        check_kept(mlp, "does not compute geglu_tanh")
    check_kept(mlp_of("gpt2"), "does not compute geglu_tanh bit for bit", "eager")
    other = mlp_of("gpt2")
    other.act.register_forward_hook(lambda *_: None)
    check_kept(other, "has hooks on its activation")
    other = mlp_of("gpt2")
    other.act = nn.Mish()
    check_kept(other, "has the activation .*Mish, which is not known")


def test_further_arguments_go_to_the_own_forward():
    mlp = mlp_of("gpt2")

    class Scaling(type(mlp)):
        def forward(self, x, scale=1.0):
            return scale * super().forward(x)

    mlp.__class__ = Scaling
    x = torch.randn(5, 7, 32)
    assert patch(mlp) == {"": "gelu_tanh(c_fc)"}
    with FusedCalls() as calls:
        check_model(mlp(x, 2.0), 2 * mlp(x))
    assert calls.count == 1
