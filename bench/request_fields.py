"""What request fields cost, in time a decode step: the rows that ask, and the others beside them.

A model of SmolLM2-135M's shape and vocabulary with random weights; each arm is the same prompts
through the same `LLM`, in turn. With --before, another Python installation's nspjax is measured in
turn as well, each in a process of its own, on rows that ask for nothing.

    python bench/request_fields.py --layers 2 --tokens 9 --rounds 2
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import jax.numpy as jnp
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

import nspjax
from nspjax.generate import LLM, SamplingParams
from nspjax.models import ModelConfig, random_decoder

PROMPT_TOKENS = 12
ONE, ALL = "one row of them", "all rows"


def smollm2_135m(n_layers: int) -> ModelConfig:
    return ModelConfig.llama(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        n_layers=n_layers,
        n_heads=9,
        n_kv_heads=3,
        max_position_tokens=512,
    )


def fields() -> dict[str, dict]:
    """Of an arm's requests, by the arm's name."""
    return {
        "logprobs=0": {"logprobs": 0},
        "logprobs=20": {"logprobs": 20},
        "presence_penalty": {"presence_penalty": 0.5},
        "repetition_penalty": {"repetition_penalty": 1.1},
        "logit_bias of 10 tokens": {"logit_bias": dict.fromkeys(range(10), 1.0)},
        "min_tokens": {"min_tokens": 4, "stop_token_ids": [1, 2]},
        "allowed_token_ids": {"allowed_token_ids": [*range(0, 49152, 3)]},
        "bad_words of several tokens": {"bad_words": ["x y"]},
    }


class SpacedNumbers:
    """In the place of a tokenizer: just enough of one for bad words."""

    def encode(self, text: str, **_: object) -> list[int]:
        return [100 + ord(c) for c in text]

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(map(str, ids))

    def apply_chat_template(self) -> None: ...

    chat_template = None
    added_tokens_decoder: dict = {}  # noqa: RUF012
    all_special_tokens: list = []  # noqa: RUF012
    all_special_ids: list = []  # noqa: RUF012

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(token)


def step_seconds(
    llm: LLM, n_rows: int, n_tokens: int, asked: dict, n_asking: int
) -> Callable[[], float]:
    """Measures the decode steps of n_rows requests, n_asking of which ask for something."""
    usual = {"temperature": 0.0, "max_tokens": n_tokens, "ignore_eos": True}
    params = [SamplingParams(**usual, **(asked if row < n_asking else {})) for row in range(n_rows)]
    prompts = [[row + 1] * PROMPT_TOKENS for row in range(n_rows)]

    def measure() -> float:
        before = llm.stats().decode_seconds
        llm.generate(prompts, params)
        return (llm.stats().decode_seconds - before) / (n_tokens - 1)

    return measure


def serve(llm: LLM, args: argparse.Namespace) -> None:
    """Seconds a plain step, for each line of standard input."""
    measure = step_seconds(llm, args.rows, args.tokens, {}, 0)
    for _ in sys.stdin:
        print(measure(), flush=True)


def installation(python: str, args: argparse.Namespace) -> Callable[[], float]:
    """Measures a plain step in a process of another installation."""
    sizes = ["--rows", args.rows, "--tokens", args.tokens, "--layers", args.layers]
    process = subprocess.Popen(
        [python, "-B", __file__, "--serve", *map(str, sizes)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def measure() -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return measure


def main() -> None:
    parser = bench_parser(__doc__, store=False)
    parser.add_argument("--rows", type=int, default=8, help="default %(default)s")
    parser.add_argument("--tokens", type=int, default=33, help="an answer (default %(default)s)")
    parser.add_argument("--layers", type=int, default=30, help="default %(default)s")
    parser.add_argument("--before", help="the Python that has another nspjax")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with (
        nspjax.Store("memory:", host_memory="1GiB") as store,
        LLM(
            random_decoder(smollm2_135m(args.layers), dtype=jnp.bfloat16),
            store=store,
            tokenizer=SpacedNumbers(),  # pyright: ignore
            max_num_seqs=args.rows,
        ) as llm,
    ):
        if args.serve:
            serve(llm, args)
            return
        arms = {"plain": step_seconds(llm, args.rows, args.tokens, {}, 0)}
        for name, asked in fields().items():
            for who, n_asking in ((ONE, 1), (ALL, args.rows)):
                arms[f"{name}: {who}"] = step_seconds(llm, args.rows, args.tokens, asked, n_asking)
        if args.before:
            arms["plain, here"] = installation(sys.executable, args)
            arms["plain, before"] = installation(args.before, args)
        measured = in_turn(arms, args.rounds, warm_ups=2)
    plain = measured["plain"]
    rows = [
        [name, *(f"{median_ratio(measured[f'{name}: {who}'], plain):.2f}" for who in (ONE, ALL))]
        for name in fields()
    ]
    tables = [
        Table([f"asked of {args.rows} rows", f"by {ONE}, × plain", f"by {ALL}, × plain"], rows),
        Table(["a plain step, ms"], [[spread([1e3 * seconds for seconds in plain], 1)]]),
    ]
    if args.before:
        ratio = median_ratio(measured["plain, here"], measured["plain, before"])
        tables.append(Table(["a plain step, here / before"], [[f"{ratio:.2f}"]]))
    publish(args, tables, measured)


if __name__ == "__main__":
    main()
