"""Speculation by n-gram lookup: tokens/s of a job whose answers quote its documents, and of one
whose answers do not, with and without it.

The example model continues Python files, its KV cache in a store, none of it in host memory. Those
that quote go on with a part of the file that stands in the prompt already; the others with what
comes next in the file. The same tokens come either way (float32).

    python bench/speculation.py --store /path/on/nvme
    python bench/speculation.py --store /path/on/nvme --rows 2 --context 1024 --tokens 32 --rounds 1
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from functools import partial
from pathlib import Path

from report import Table, bench_parser, publish
from turns import in_turn, median_ratio, spread

from nspjax import LLM, SamplingParams, Store
from nspjax.byte_size import format_bytes

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
from library import read_library  # noqa: E402

QUOTED_BYTES = 64


@dataclasses.dataclass(frozen=True)
class Job:
    """What one pass of one arm did."""

    tokens_per_second: float
    tokens_per_step: float
    read_bytes_per_step: float
    proposed: int
    accepted: int
    answers: list[tuple[int, ...]]


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--model", default=ROOT / "examples/tiny-python-llama", type=Path)
    parser.add_argument("--dtype", default="float32", help="default %(default)s")
    parser.add_argument("--rows", default=4, type=int, help="default %(default)s")
    parser.add_argument("--context", default=4096, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--tokens", default=256, type=int, help="generated (default %(default)s)")
    parser.add_argument("--drafts", default=[4, 8, 16], type=int, nargs="+")
    parser.add_argument(
        "--lookup", default=8, type=int, help="prompt_lookup_max; a token is a byte"
    )
    parser.add_argument("--host-memory", default="256MiB", help="default %(default)s")
    args = parser.parse_args()

    arms = {"without": None} | {f"{k} drafts": k for k in args.drafts}
    prompts = {"quoting": quoting(args), "going on": going_on(args)}
    params = SamplingParams(max_tokens=args.tokens, temperature=0, ignore_eos=True)
    with contextlib.ExitStack() as opened:
        llms = {}
        for name, k in arms.items():
            directory = args.store / name.replace(" ", "-")
            directory.mkdir(parents=True, exist_ok=True)
            store = Store(directory, host_memory=args.host_memory, pinned="0")
            llm = LLM(
                args.model,
                store=opened.enter_context(store),
                dtype=args.dtype,
                max_model_len=args.context,
                max_num_seqs=args.rows,
                speculative=None if k is None else speculative(k, args.lookup),
            )
            llms[name] = opened.enter_context(llm), store
        measured = {
            kind: in_turn(
                {name: partial(run, *llm, of_kind, params) for name, llm in llms.items()},
                args.rounds,
            )
            for kind, of_kind in prompts.items()
        }
    tables = [table(kind, rounds) for kind, rounds in measured.items()]
    print(f"{args.rows} rows of {args.context} tokens, {args.tokens} generated, {args.dtype}\n")
    publish(args, tables, measured)


def speculative(k: int, lookup: int) -> dict[str, object]:
    return {"method": "ngram", "num_speculative_tokens": k, "prompt_lookup_max": lookup}


def quoting(args) -> list[str]:
    """Prompts that end as their beginning does, a part later on."""
    n_bytes = args.context - args.tokens - QUOTED_BYTES - 8
    parts = documents(args.rows, n_bytes)
    return [text + "\n\n" + text[n_bytes // 3 :][:QUOTED_BYTES] for text in parts]


def going_on(args) -> list[str]:
    return documents(args.rows, args.context - args.tokens - 8)


def documents(n: int, n_bytes: int) -> list[str]:
    """The beginnings of files that the model was not trained on."""
    _, held_out = read_library()
    ascii_files = (text for text in held_out if len(text) >= n_bytes and text.isascii())
    return [text[:n_bytes].decode() for text in itertools.islice(ascii_files, n)]


def run(llm: LLM, store: Store, prompts: list[str], params: SamplingParams) -> Job:
    before, read = llm.stats(), store.stats().bytes_read
    outputs = llm.generate(prompts, params)
    after, read = llm.stats(), store.stats().bytes_read - read
    steps = after.decode_steps - before.decode_steps
    tokens = after.generated_tokens - before.generated_tokens
    return Job(
        tokens / (after.decode_seconds - before.decode_seconds),
        tokens / steps / len(prompts),
        read / steps,
        after.draft_tokens - before.draft_tokens,
        after.accepted_draft_tokens - before.accepted_draft_tokens,
        [output.outputs[0].token_ids for output in outputs],
    )


def table(kind: str, rounds: dict[str, list[Job]]) -> Table:
    plain = rounds["without"]
    speed = lambda jobs: [job.tokens_per_second for job in jobs]  # noqa: E731
    rows = []
    for name, jobs in rounds.items():
        last = jobs[-1]
        same = sum(a == b for a, b in zip(last.answers, plain[-1].answers, strict=True))
        rows.append(
            (
                name,
                spread(speed(jobs), 1),
                f"{median_ratio(speed(jobs), speed(plain)):.2f}×",
                f"{last.tokens_per_step:.2f}",
                f"{last.accepted / last.proposed:.0%}" if last.proposed else "-",
                format_bytes(round(last.read_bytes_per_step)),
                f"{same} of {len(last.answers)}",
            )
        )
    columns = (
        kind, "tokens/s", "of without", "tokens a step and row", "drafts kept", "read a step",
        "same answers",
    )  # fmt: skip
    return Table(columns, rows)


if __name__ == "__main__":
    main()
