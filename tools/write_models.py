"""Writes docs/models.md: what `patch` makes of each causal language model of transformers.

    python tools/write_models.py [--check]

Builds every model on the meta device, with the configuration that its class has by default: 20
seconds. With --check, exits with 1 if docs/models.md differs.
"""

import inspect
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

import fused_acts
from fused_acts.integrations.transformers import patch

PAGE = Path(__file__).resolve().parent.parent / "docs/models.md"
# What a default configuration lacks: to build a model, or to have what released ones have.
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_QWEN4 = {"indexer_n_heads": 16, "indexer_kv_heads": 1, "indexer_head_dim": 256}
_QWEN4 |= {"indexer_budget": 64, "indexer_compress_ratio": 4}
NEEDS: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 1e4}},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 2},
    "gemma4_assistant": {
        "text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    },
    "granitemoehybrid": {"shared_intermediate_size": 1024},
    "granitemoeshared": {"shared_intermediate_size": 1024},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 8, "moe_topk": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "reformer": {"is_decoder": True},
}
# These say that a module has no gate, except of this one, whose gate comes behind its MLP.
UNGATED = re.compile("is no MLP of a known form|has no gate|XIELUActivation")
GATED = re.compile("RwkvFeedForward")
# The gate in the forward of an attention: sigmoid(gate) * out.
ATTENTION_GATE = re.compile(r"sigmoid\(|gate.*softplus")


class Row(NamedTuple):
    calls: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()  # with a gate
    attention: bool = False  # whether its attention has an output gate
    whole: bool = False  # whether its experts are one block
    error: str = ""


def model_of(name: str) -> torch.nn.Module:
    kind = getattr(transformers, CLASSES[name])
    config = transformers.CONFIG_MAPPING[name](**NEEDS.get(name, {}))
    try:
        with torch.device("meta"):
            return kind(config)
    except AttributeError:  # the class takes a part of it
        with torch.device("meta"):
            return kind(config.get_text_config(decoder=True))


def row(name: str) -> Row:
    try:
        model = model_of(name)
    except Exception as error:
        return Row(
            error=f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0]}"
        )
    kinds = {type(module) for module in model.modules()}
    report = patch(model)
    kept = [text for text in report.kept.values() if not UNGATED.search(text) or GATED.search(text)]
    calls = [text for text in report.fused.values() if unit(text) not in fused_acts.activations()]
    whole = any(text.endswith("whole experts") for text in report.fused.values())
    return Row(unique(calls), unique(kept), any(map(has_output_gate, kinds)), whole)


def has_output_gate(kind: type) -> bool:
    is_attention = "Attention" in kind.__name__ and kind.__module__.startswith("transformers.")
    return is_attention and bool(ATTENTION_GATE.search(inspect.getsource(kind.forward)))


def unit(call: str) -> str:
    return re.split(r"\W", call)[0]


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


HEAD = """\
# Which model has which unit

What [`patch`](transformers.md) makes of the {all} causal language models of transformers {version},
each with the configuration that its class has by default: in **{fused}** it fuses every gated MLP,
all experts and the norms with a gate, in **{partly}** a part of them, in **{kept}** none, and
**{ungated}** have none. {errors} In **{whole}** the experts are one block, with the routed
weights in the call of the unit. `tools/write_models.py` writes this page.

`swiglu(gate_proj, up_proj)` is one call in the place of the whole unit, `swiglu in place of act_fn`
one in the module's own forward, and `swiglu(gate_up_proj, gate_up), whole experts` one in a block
in the place of the experts: [what is fused](transformers.md#what-is-fused).

| model | units | calls |
|---|---|---|
"""

ATTENTION = """
## With a gate in the attention

sigmoid(gate) * out, or softplus(gate) * out in Laguna, is computed inside the forward of the
attention, where there is no module that `patch` could replace, so it stays as it is in {}.
"""


def page(rows: dict[str, Row]) -> str:
    gated = {name: row for name, row in rows.items() if row.calls or row.kept}
    ungated = [name for name, row in rows.items() if not (row.calls or row.kept or row.error)]
    errors = {name: row.error for name, row in rows.items() if row.error}
    text = HEAD.format(
        all=len(rows),
        version=transformers.__version__,
        fused=sum(not row.kept for row in gated.values()),
        partly=sum(bool(row.kept and row.calls) for row in gated.values()),
        kept=sum(not row.calls for row in gated.values()),
        ungated=len(ungated),
        whole=sum(row.whole for row in rows.values()),
        errors=f"{len(errors)} could not be built." if errors else "All could be built.",
    )
    for name, row in gated.items():
        units = unique(unit(call) for call in row.calls)
        cells = [*(f"`{call}`" for call in row.calls), *(f"not fused: {why}" for why in row.kept)]
        text += f"| {name} | {', '.join(units)} | {'; '.join(cells)} |\n"
    text += "\n## Without a gate\n\n" + ", ".join(ungated) + ".\n"
    text += ATTENTION.format(", ".join(name for name, row in rows.items() if row.attention))
    if errors:
        text += "\n## Not built\n\n| model | |\n|---|---|\n"
        text += "".join(f"| {name} | {error} |\n" for name, error in errors.items())
    return text


def main() -> None:
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    text = page({name: row(name) for name in CLASSES})
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        sys.exit("docs/models.md is not what tools/write_models.py writes: run it")


if __name__ == "__main__":
    main()
