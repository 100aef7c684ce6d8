"""Tiny random models of the families that the transformers integration is tested with."""

import warnings

import pytest
import torch
from tolerances import EXPERTS_ULPS, MODEL_ULPS, check_model
from torch.utils._python_dispatch import TorchDispatchMode

from fused_acts.integrations.transformers import patch, unpatch

transformers = pytest.importorskip("transformers")

_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODER = _SIZES | {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}

# Class, configuration and what patch says of its MLPs.
MODELS = {
    "llama": ("LlamaForCausalLM", DECODER | {"mlp_bias": True}, "swiglu(gate_proj, up_proj)"),
    "mistral": ("MistralForCausalLM", DECODER, "swiglu(gate_proj, up_proj)"),
    "qwen2": ("Qwen2ForCausalLM", DECODER, "swiglu(gate_proj, up_proj)"),
    "qwen3": ("Qwen3ForCausalLM", DECODER, "swiglu(gate_proj, up_proj)"),
    "olmo2": ("Olmo2ForCausalLM", DECODER, "swiglu(gate_proj, up_proj)"),
    "gemma": ("GemmaForCausalLM", DECODER, "geglu_tanh(gate_proj, up_proj)"),
    "gemma2": ("Gemma2ForCausalLM", DECODER, "geglu_tanh(gate_proj, up_proj)"),
    "gemma3": ("Gemma3ForCausalLM", DECODER, "geglu_tanh(gate_proj, up_proj)"),
    "phi3": ("Phi3ForCausalLM", DECODER, "swiglu(gate_up_proj, gate_up)"),
    "glm": ("GlmForCausalLM", DECODER, "swiglu(gate_up_proj, gate_up)"),
    "glm4": ("Glm4ForCausalLM", DECODER, "swiglu(gate_up_proj, gate_up)"),
    "t5": (
        "T5ForConditionalGeneration",
        _T5 | {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0, "dropout_rate": 0.0},
        "geglu_tanh(wi_0, wi_1)",
    ),
    "modernbert": (
        "ModernBertForMaskedLM",
        _SIZES | {"cls_token_id": 1, "sep_token_id": 2},
        "geglu(Wi, gate_up)",
    ),
    "mixtral": (
        "MixtralForCausalLM",
        DECODER | EXPERTS,
        "swiglu(gate_up_proj, gate_up), whole experts",
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        DECODER | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
        "swiglu(gate_up_proj, gate_up), whole experts",
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        DECODER | EXPERTS,
        "swiglu_oai(gate_up_proj, interleaved, alpha=1.702, limit=7.0), whole experts",
    ),
}
WITH_EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss")


def make(family: str, **changes):
    """A model in training mode, without dropout, the gates of which are not all near zero."""
    name, options, _ = MODELS[family]
    # The attention of T5 has no scale: with larger weights it magnifies every rounding error.
    return build(name, options | changes, std=0.1 if family == "t5" else 0.2)


def build(name: str, options: dict, std: float = 0.2):
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**options)).train()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() > 1 or "bias" in parameter_name:
                parameter.normal_(std=std)
    return model


def inputs(family: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 64, (2, 12), generator=generator)
    return {"input_ids": ids, "labels": ids.flip(1)}


def run(model, family: str):
    """(logits, loss, gradients by the name of the parameter)."""
    model.zero_grad()
    result = model(**inputs(family))
    result.loss.backward()
    grads = {
        name.removeprefix("_orig_mod."): p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    return result.logits.detach(), result.loss.detach(), grads


def check_runs(patched, before, part: float = 0.0) -> None:
    """part: of the largest gradient of all, below which one counts as that large."""
    (logits, loss, grads), (logits_before, loss_before, grads_before) = patched, before
    ulps = EXPERTS_ULPS if any("experts" in name for name in grads) else MODEL_ULPS
    check_model(logits, logits_before, ulps=ulps)
    check_model(loss, loss_before, ulps=ulps)
    assert grads.keys() == grads_before.keys()
    size = part * max(grad.abs().max().item() for grad in grads_before.values())
    for name, grad in grads.items():
        check_model(grad, grads_before[name], size, ulps)


class FusedCalls(TorchDispatchMode):
    """Counts the fused forward calls, and those of them with a packed input."""

    def __init__(self):
        super().__init__()
        self.count = self.packed = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # biases of down are a unit of their own, whose gate is the same in every row
        if func.namespace == "fused_acts" and "forward" in func.__name__ and args[0].stride(0):
            self.count += 1
            self.packed += args[1] is None
        return func(*args, **(kwargs or {}))


def mlp_with(activation=None, kind="llama", mlp_class=None, **options):
    """The first MLP of a small model, of another class or with another activation if asked for."""
    mlp = make(kind, **options).model.layers[0].mlp
    if mlp_class is not None:
        mlp.__class__ = mlp_class
    if activation is not None:
        mlp.act_fn = activation
    return mlp


def check_fused(module, text):
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
    before = module(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert patch(module) == {"": text}
    with FusedCalls() as calls:
        out = module(x)
    assert calls.count == 1
    check_model(out, before)


def check_kept(module, reason, rounding="single"):
    attributes = dict(vars(module))
    with pytest.warns(UserWarning, match=f"not fused: {type(module).__name__} {reason}"):
        report = patch(module, rounding)
    assert report == report.kept and not report.fused
    assert list(report.values()) == [str(report).partition("not fused: ")[2]]
    assert vars(module) == attributes


def _output_and_gradients(module, x):
    leaves = [x.requires_grad_(), *module.parameters()]
    torch.manual_seed(0)
    y = module(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


def check_parts(module, reports, x):
    """Patches the parts of a module: values, gradients and the names of parameters stay."""
    before, keys = _output_and_gradients(module, x), list(module.state_dict())
    assert patch(module) == reports
    with FusedCalls() as calls:
        after = _output_and_gradients(module, x)
    assert calls.count == len(reports) and list(module.state_dict()) == keys
    for actual, expected in zip(after, before, strict=True):
        check_model(actual, expected)
    unpatch(module)
    assert torch.equal(_output_and_gradients(module, x)[0], before[0])
