"""Tiny models with experts, and every class of experts that transformers has."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers_cases import DECODER, build, make, transformers

_ROUTED = {"num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4}
_ROUTED |= {"num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
_SHARED = {"shared_expert_intermediate_size": 48, "n_shared_experts": 1}
_GROUPS = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 0}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16}
_LATENT |= {"v_head_dim": 16, "num_key_value_heads": 2}

# Beside those of transformers_cases.
MODELS = {
    "qwen2_moe": ("Qwen2MoeForCausalLM", DECODER | _ROUTED | _SHARED),
    "deepseek_v3": ("DeepseekV3ForCausalLM", DECODER | _ROUTED | _SHARED | _GROUPS | _LATENT),
    "glm4_moe": ("Glm4MoeForCausalLM", DECODER | _ROUTED | _SHARED | _GROUPS),
    "olmoe": ("OlmoeForCausalLM", DECODER | _ROUTED),
}
FAMILIES = ("mixtral", "qwen3_moe", "gpt_oss", *MODELS)


def model_of(family: str):
    return build(*MODELS[family]) if family in MODELS else make(family)


def is_experts(module: nn.Module) -> bool:
    return hasattr(module, "_apply_gate")


def classes() -> Iterator[type[nn.Module]]:
    """Those that transformers lets have another implementation."""
    models = Path(transformers.__file__).parent / "models"
    for path in sorted(models.glob("*/modeling_*.py")):
        names = re.findall(
            r"^@use_experts_implementation.*\nclass (\w+)\(", path.read_text(), re.MULTILINE
        )
        if names:
            module = f"transformers.models.{path.parent.name}.{path.stem}"
            yield from (getattr(importlib.import_module(module), name) for name in names)


class Config:
    """What any of them asks its configuration for."""

    _experts_implementation: str | None = "eager"
    moe_latent_size = None

    def __getattr__(self, name: str):
        values = {"act": "silu", "intermediate": 48, "hidden": 32, "experts": 4}
        values |= {"limit": 0.5, "alpha": 1.7, "eps": 1e-6, "softcap": 4.0}
        for part, value in values.items():
            if part in name:
                return value
        raise AttributeError(name)


def experts_of(kind: type[nn.Module]):
    module = kind(Config())
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


def class_of(path: str) -> type[nn.Module]:
    """By "mixtral.MixtralExperts"."""
    model, name = path.split(".")
    kind = getattr(importlib.import_module(f"transformers.models.{model}.modeling_{model}"), name)
    assert issubclass(kind, nn.Module)
    return kind


def routed(tokens: int = 7, k: int = 2, experts: int = 4):
    """(hidden states, ids, weights), of different experts each."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randperm(experts, generator=generator)[:k] for _ in range(tokens)]
    index = torch.stack(ids) if ids else torch.empty(0, k, dtype=torch.long)
    x = torch.randn(tokens, 32, generator=generator)
    return x, index, torch.rand(tokens, k, generator=generator)
