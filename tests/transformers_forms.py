"""Tiny random models of more families, those whose MLPs or experts have a form of their own."""

from transformers_cases import DECODER, EXPERTS

_MOE = {"moe_intermediate_size": 48, "num_experts_per_tok": 2}
_MIXED = {"layer_types": ["conv", "full_attention"]}
_EXPERTS = "swiglu(gate_up_proj, gate_up), whole experts"
_IN_PLACE = "swiglu in place of act_fn"
_NORM_FIRST = "gate=swish, norm_before_gate=True, group_size=None"
_NORM_BEHIND = "gate=swish, norm_before_gate=False"

# Class, configuration and what patch says, in the order of the modules of a layer.
FORMS = {
    "apertus": ("ApertusForCausalLM", DECODER, {"xielu(alpha_p, alpha_n)"}),
    "aria": (
        "AriaTextForCausalLM",
        DECODER | {"moe_num_experts": 4, "moe_topk": 2},
        {"swiglu(gate_proj, up_proj)", _EXPERTS},
    ),
    "beam": (
        "BeamForCausalLM",
        DECODER
        | _MOE
        | {"num_experts": 4, "n_group": 1, "topk_group": 1, "mlp_layer_types": ["dense", "sparse"]},
        {"swiglu(gate_proj, up_proj)", _EXPERTS},
    ),
    "bitnet": ("BitNetForCausalLM", DECODER, {"squared_reglu in place of act_fn"}),
    "cpmant": (
        "CpmAntForCausalLM",
        {"vocab_size": 64, "hidden_size": 32, "dim_head": 16, "dim_ff": 48}
        | {"num_hidden_layers": 2, "num_attention_heads": 2, "prompt_length": 4},
        {"geglu in place of act"},
    ),
    "deepseek_v4": (
        "DeepseekV4ForCausalLM",
        DECODER
        | _MOE
        | {"n_routed_experts": 4, "q_lora_rank": 16, "o_lora_rank": 8, "o_groups": 2}
        | {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 4, "qk_rope_head_dim": 8}
        | {"swiglu_limit": 0.5, "partial_rotary_factor": 0.5},
        {
            "swiglu(gate_proj, up_proj, limit=0.5)",
            "swiglu(gate_up_proj, gate_up, limit=0.5), whole experts",
        },
    ),
    "dory": ("DoryForCausalLM", DECODER, {_IN_PLACE}),
    "falcon_h1": (
        "FalconH1ForCausalLM",
        DECODER
        | {"mlp_multipliers": [0.7, 1.3], "mamba_d_ssm": 32, "mamba_n_heads": 4}
        | {"mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_rms_norm": True},
        {_IN_PLACE, f"rms_norm_gated({_NORM_FIRST})"},
    ),
    "gemma3n": (
        "Gemma3nForCausalLM",
        DECODER
        | {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"]}
        | {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8, "laurel_rank": 4}
        | {"activation_sparsity_pattern": [0.95, 0.0]},
        {
            "topk_geglu(gate_proj, up_proj, sparsity=0.95)",
            "geglu_tanh(gate_proj, up_proj)",
        },
    ),
    "granite_shared": (
        "GraniteMoeSharedForCausalLM",
        DECODER | EXPERTS | {"shared_intermediate_size": 48},
        {_EXPERTS, "swiglu(input_linear, gate_up)"},
    ),
    "inkling": (
        "InklingForCausalLM",
        DECODER
        | _MOE
        | {"swa_num_attention_heads": 2, "swa_num_key_value_heads": 1, "swa_head_dim": 16}
        | {"n_routed_experts": 4, "d_rel": 4, "rel_extent": 16},
        {_EXPERTS, _IN_PLACE},
    ),
    "jetmoe": (
        "JetMoeForCausalLM",
        {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        | {"num_key_value_heads": 1, "kv_channels": 16, "num_local_experts": 4},
        {"swiglu in place of activation"},
    ),
    "lfm2": (
        "Lfm2ForCausalLM",
        DECODER | _MIXED | {"block_auto_adjust_ff_dim": False},
        {"swiglu(w1, w3)"},
    ),
    "lfm3": ("Lfm3ForCausalLM", DECODER | _MIXED, {"swiglu(w1, w3)"}),
    "llama4": (
        "Llama4ForCausalLM",
        DECODER | {"num_local_experts": 4, "intermediate_size_mlp": 48},
        {"swiglu(gate_proj, up_proj)", _IN_PLACE},
    ),
    "longcat": (
        "LongcatFlashForCausalLM",
        {key: value for key, value in DECODER.items() if key != "num_hidden_layers"}
        | {"num_layers": 2, "num_key_value_heads": 2, "ffn_hidden_size": 48}
        | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16}
        | {"v_head_dim": 16, "moe_topk": 2, "n_routed_experts": 4, "zero_expert_num": 2}
        | {"expert_ffn_hidden_size": 24},
        {"swiglu(gate_proj, up_proj)", _IN_PLACE},
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4}
        | {"head_dim": 16, "state_size": 8, "n_groups": 2, "chunk_size": 8},
        {f"rms_norm_gated({_NORM_BEHIND}, group_size=32)"},
    ),
    "minimax_m3": (
        "MiniMaxM3VLForCausalLM",
        DECODER
        | EXPERTS
        | {"dense_intermediate_size": 48, "shared_intermediate_size": 48, "rotary_dim": 8}
        | {"index_n_heads": 1, "index_head_dim": 16},
        {
            "swiglu_oai(gate_up_proj, gate_up, alpha=1.702, limit=7.0)",
            "swiglu_oai(gate_up_proj, gate_up, alpha=1.702, limit=7.0), whole experts",
        },
    ),
    "moshi": ("MoshiForCausalLM", DECODER | {"ffn_dim": 96}, {"swiglu(fc1, gate_up)"}),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        DECODER
        | _MOE
        | {"num_experts": 4, "shared_expert_intermediate_size": 48}
        | {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8}
        | {"linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
        {
            "swiglu(gate_proj, up_proj)",
            _EXPERTS,
            f"rms_norm_gated({_NORM_FIRST})",
        },
    ),
    "seed_oss": (
        "SeedOssForCausalLM",
        DECODER | {"attention_dropout": 0.0, "residual_dropout": 0.1},
        {_IN_PLACE},
    ),
    "zamba2": (
        "Zamba2ForCausalLM",
        DECODER
        | {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2}
        | {"n_mamba_heads": 4, "mamba_d_state": 8, "chunk_size": 8, "adapter_rank": 4},
        {"geglu in place of act_fn", f"rms_norm_gated({_NORM_BEHIND}, group_size=None)"},
    ),
}
