"""Batched decode by transformers' LlamaForCausalLM, bfloat16, StaticCache; runs in the peers'
environment. The cache is filled with random values: there is no prefill."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from serve_steps import read_job, serve_steps
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache


class Decode:
    """`batch` rows of `context_tokens` tokens."""

    def __init__(self, job: dict[str, Any]):
        shape = job["shape"]
        config = LlamaConfig(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["hidden_size"],
            intermediate_size=shape["intermediate_size"],
            num_hidden_layers=shape["n_layers"],
            num_attention_heads=shape["n_heads"],
            num_key_value_heads=shape["n_kv_heads"],
            head_dim=shape["head_dim"],
            max_position_embeddings=shape["context_tokens"],
            attn_implementation=job["attention"],
            dtype=torch.bfloat16,
        )
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        self.model = LlamaForCausalLM(config).eval()
        self.cache = StaticCache(
            config=config, max_cache_len=job["context_tokens"] + job["most_steps"]
        )
        self.cache.early_initialization(
            job["batch"], shape["n_kv_heads"], shape["head_dim"], torch.bfloat16, "cpu"
        )
        for layer in self.cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
            layer.cumulative_length.fill_(job["context_tokens"])
        self.last = torch.zeros(job["batch"], 1, dtype=torch.long)

    @torch.inference_mode()
    def step(self) -> None:
        logits = self.model(self.last, past_key_values=self.cache, use_cache=True).logits
        self.last = logits.argmax(-1)


def main() -> None:
    job = read_job()
    torch.set_num_threads(job["threads"])
    with torch.inference_mode():
        decode = Decode(job)
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    serve_steps({"version": version}, decode.step)


if __name__ == "__main__":
    main()
