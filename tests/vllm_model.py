"""A tiny Llama in vLLM, in a process of its own: `python vllm_model.py FOLDER`.

Prints the modules that stand for the activations, and the tokens and their logarithms, as JSON.
"""

import json
import os
import sys

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
}
SIZES = {
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 64,
}


def main(folder: str) -> None:
    import torch
    import transformers
    from vllm import LLM, SamplingParams, TokensPrompt

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    llm = LLM(
        folder, skip_tokenizer_init=True, dtype="float32", max_model_len=64, enforce_eager=True
    )
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    kinds = [type(m).__module__ for n, m in runner.model.named_modules() if n.endswith("act_fn")]
    sampling = SamplingParams(max_tokens=12, temperature=0, detokenize=False, logprobs=1)
    prompt = TokensPrompt(prompt_token_ids=[1, 5, 9, 33, 70])
    (out,) = llm.generate([prompt], sampling, use_tqdm=False)[0].outputs
    chosen = [at[token].logprob for token, at in zip(out.token_ids, out.logprobs, strict=True)]
    print(json.dumps([kinds, list(out.token_ids), chosen]))


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    main(sys.argv[1])
