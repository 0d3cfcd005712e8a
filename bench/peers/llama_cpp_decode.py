"""Batched decode by llama.cpp (llama-cpp-python); runs in the peers' environment.

Sequence 0 is filled by a real prefill and copied to the others. With kv_unified off each sequence
has a buffer of its own, and llama_memory_seq_cp between them copies the data: every sequence reads
its own KV. With the unified buffer, copies would share cells, and every sequence's attention would
run over the cells of all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from random_gguf import write_random_gguf
from serve_steps import read_job, serve_steps

PREFILL_TOKENS = 512


class Decode:
    """A context of `batch` sequences of `context_tokens` tokens, f16 KV."""

    def __init__(self, job: dict[str, Any]):
        shape = job["shape"]
        self.batch, self.vocab = job["batch"], shape["vocab_size"]
        path = Path(job["folder"]) / f"random-{job['weights']}-{shape['n_layers']}.gguf"
        if not path.exists():
            unfinished = path.with_suffix(".part")
            write_random_gguf(unfinished, shape, job["weights"])
            unfinished.rename(path)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        assert self.model, f"llama.cpp cannot load {path}"
        room_tokens = -(-(job["context_tokens"] + job["most_steps"]) // 256) * 256
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = self.batch * room_tokens
        settings.n_seq_max = self.batch
        settings.n_batch = settings.n_ubatch = max(PREFILL_TOKENS, self.batch)
        settings.n_threads = settings.n_threads_batch = job["threads"]
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F16
        settings.kv_unified = False
        settings.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if job["flash_attention"]
            else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        assert self.context, "llama.cpp made no context"
        self.tokens = llama_cpp.llama_batch_init(settings.n_batch, 0, 1)
        self.fill(job["context_tokens"])

    def fill(self, n_tokens: int) -> None:
        """Prefill sequence 0 with random tokens and copy it."""
        prompt = np.random.default_rng(0).integers(0, self.vocab, n_tokens).tolist()
        for begin in range(0, n_tokens, PREFILL_TOKENS):
            part = prompt[begin : begin + PREFILL_TOKENS]
            self.run([(token, begin + i, 0) for i, token in enumerate(part)], logits=False)
        memory = llama_cpp.llama_get_memory(self.context)
        for sequence in range(1, self.batch):
            llama_cpp.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        self.length, self.last = n_tokens, [0] * self.batch

    def step(self) -> None:
        """One token for every sequence: its most likely one after the last."""
        self.run([(token, self.length, row) for row, token in enumerate(self.last)], logits=True)
        scores = llama_cpp.llama_get_logits(self.context)
        self.last = np.ctypeslib.as_array(scores, (self.batch, self.vocab)).argmax(-1).tolist()
        self.length += 1

    def run(self, tokens: list[tuple[int, int, int]], *, logits: bool) -> None:
        """tokens: (id, position, sequence)"""
        batch = self.tokens
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence) in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = logits
        failed = llama_cpp.llama_decode(self.context, batch)
        assert failed == 0, f"llama_decode returned {failed}"
        llama_cpp.llama_synchronize(self.context)


def main() -> None:
    job = read_job()
    decode = Decode(job)
    serve_steps({"version": f"llama-cpp-python {llama_cpp.__version__}"}, decode.step)


if __name__ == "__main__":
    main()
