"""Ask a model about long documents, its KV cache on this disk: `make demo`.

    python examples/demo.py MODEL DIRECTORY

The model is one that follows instructions; the documents are Python's and this repository's.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import jax

import nspjax
from nspjax.byte_size import format_bytes
from nspjax.generate import CompletionOutput, Request
from nspjax.runtime import StoreStats

ROOT = Path(__file__).parents[1]
HOST_MEMORY = "96MiB"
GREEDY = nspjax.SamplingParams(temperature=0, max_tokens=48)


def documents() -> dict[str, tuple[str, list[str]]]:
    """Texts of 2000 to 5500 tokens, and what is asked about each."""
    return {
        "Python's pages on pdb, the debugger": (
            topics["debugger"],
            ["What is pdb?", "What does the command 'step' do?", "How do I set a breakpoint?"],
        ),
        "LICENSE": (
            (ROOT / "LICENSE").read_text(),
            [
                "What is the name of this license?",
                "Who is meant by 'Licensor'?",
                "Does the license give a warranty?",
            ],
        ),
        "README.md": (
            (ROOT / "README.md").read_text(),
            [
                "Which operating system is required?",
                "What does nspjax keep on NVMe?",
                "Which command answers a file of prompts?",
            ],
        ),
    }


def questions(llm: nspjax.LLM) -> Iterator[Request]:
    """Those about one document stand together and share its cache. The id is a heading."""
    for name, (text, asked) in documents().items():
        for question in asked:
            content = f"{text}\n\nAnswer briefly, from the text above: {question}"
            prompt = llm.chat_prompt([{"role": "user", "content": content}])
            yield Request(f"{name}\n  {question}", prompt, GREEDY)


def main(model: Path, directory: Path) -> None:
    print(f"{model.stem} answers questions about three documents. It has few")
    print("parameters: it reads well, and is sometimes wrong.")
    kv = directory / "kv"
    kv.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(directory / "compiled"))
    begin = time.perf_counter()
    with (
        nspjax.Store(kv, host_memory=HOST_MEMORY) as store,
        nspjax.LLM(
            model,
            store=store,
            share_prefixes=True,
            max_model_len=6144,
            max_num_seqs=9,
        ) as llm,
    ):
        print(
            f"Loaded in {time.perf_counter() - begin:.0f} s. Reading and compiling ...", flush=True
        )
        requests = list(questions(llm))
        prompt_tokens = 0
        for output in llm.stream(requests):
            if output.error:
                raise output.error
            prompt_tokens += len(output.prompt_token_ids)
            print(f"\n── {output.request_id}")
            print(shown(output.outputs[0]), flush=True)
        print(f"\n{'─' * 78}")
        show(llm, store.stats(), len(requests), prompt_tokens)
    print(f"All in {time.perf_counter() - begin:.0f} s. A file of requests of your own:")
    print(f"  nspjax run-batch -i FILE -o answers.jsonl --model {model} --store {kv}")


def shown(answer: CompletionOutput) -> str:
    """Its lines, indented; … where it was cut."""
    text = answer.text.strip() + (" …" if answer.finish_reason == "length" else "")
    indents = {"initial_indent": "  │ ", "subsequent_indent": "  │ "}
    return "\n".join(textwrap.fill(line, 78, **indents) for line in text.splitlines())


def show(llm: nspjax.LLM, stored: StoreStats, n_requests: int, prompt_tokens: int) -> None:
    """What was done, and what it took."""
    done, config = llm.stats(), llm.config
    token_bytes = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 2
    all_bytes = token_bytes * (prompt_tokens + done.generated_tokens)
    read_per_s = done.prompt_tokens / max(done.prefill_seconds, 1e-9)
    written_per_s = done.generated_tokens / max(done.decode_seconds, 1e-9)
    alone, here, read, host = map(
        format_bytes, (all_bytes, stored.bytes_written, stored.bytes_read, stored.host_bytes)
    )
    print(f"{n_requests} answers of {done.generated_tokens} tokens")
    print(f"  prompts    {prompt_tokens:,} tokens, {done.shared_prompt_tokens:,} of them shared")
    print(
        f"  speed      {read_per_s:,.0f} prompt tokens/s, then {written_per_s:,.1f} answer tokens/s"
    )
    print(f"  KV cache   {alone} if every prompt kept its own in memory;")
    print(f"             here {here} on disk, from where attention read {read} in all,")
    print(f"             and {host} of memory for the newest tokens and buffers")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
