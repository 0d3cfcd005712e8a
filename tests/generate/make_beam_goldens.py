"""Write tests/generate/beam_goldens.json: what transformers' beam search finds.

    python tests/generate/make_beam_goldens.py

Needs torch and transformers (the dependency group `oracle`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

MODELS = Path(__file__).parents[1] / "models" / "goldens"
GOLDENS = Path(__file__).parent / "beam_goldens.json"
NAMES = ("llama", "qwen3", "opt")
N_BEAMS, MAX_TOKENS = 4, 24
LENGTH_PENALTIES = (1.0, 0.0, 2.0, -1.0)


def prompts(vocab_size: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randint(3, min(vocab_size, 90), (n,), generator=draw).tolist() for n in (1, 7, 20)
    ]


def searched(directory: Path, end_tokens: list[int]) -> list[dict[str, Any]]:
    """Sequences of generated tokens, and their ranks, for each prompt and length penalty."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    found = []
    for penalty in LENGTH_PENALTIES:
        for prompt in prompts(model.config.vocab_size):
            out = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                num_beams=N_BEAMS,
                num_return_sequences=N_BEAMS,
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                length_penalty=penalty,
                early_stopping=False,
                eos_token_id=end_tokens,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_scores=True,
            )
            sequences = []
            for tokens in out.sequences[:, len(prompt) :].tolist():
                ends = [i for i, token in enumerate(tokens) if token in end_tokens]
                sequences.append(tokens[: ends[0] + 1] if ends else tokens)
            found.append(
                {
                    "prompt": prompt,
                    "length_penalty": penalty,
                    "sequences": sequences,
                    "ranks": out.sequences_scores.tolist(),
                }
            )
    return found


def end_tokens_of(directory: Path) -> list[int]:
    """So many that beams of a random model end now and then."""
    vocab_size = json.loads((directory / "config.json").read_text())["vocab_size"]
    return list(range(3, vocab_size, 23))


def main() -> None:
    goldens = {}
    for name in NAMES:
        end_tokens = end_tokens_of(MODELS / name)
        goldens[name] = {
            "made by": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "end_tokens": end_tokens,
            "searches": searched(MODELS / name, end_tokens),
        }
    GOLDENS.write_text(json.dumps(goldens, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
