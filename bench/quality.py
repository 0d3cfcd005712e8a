"""What a way to keep or read the KV cache costs in quality, on a real model and on the tiny one.

Compared with decode in float32 from memory, over the last tokens of texts of 2K to 8K tokens: KL
divergence, how often the likeliest token is the same, bits per byte; and how often a number is
found again that stood far before. Weights are float32 throughout: see forced_decode.py for what
exactly differs.

    python bench/quality.py --store /path/on/disk                    # both models, 2K to 8K
    python bench/quality.py --store /path/on/disk --models tiny --contexts 512 --rows 2 \\
        --scored 8 --retrieval-rows 2                                # does it run
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from forced_decode import Prefix, Setting, forced_logits, prefilled
from long_texts import RETRIEVAL, Encoding, Texts, code, prose
from report import Table, bench_parser, publish

from nspjax.generate.text.tokenization import load_tokenizer
from nspjax.models import Decoder, load_decoder

ROOT = Path(__file__).parents[1]
MODELS = {
    "smollm2": ROOT / "build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "tiny": ROOT / "examples/tiny-python-llama",
}
REFERENCE = Setting()
SETTINGS: dict[str, Setting] = {
    "bf16": Setting({"dtype": jnp.bfloat16}),
    "int8": Setting({"dtype": jnp.bfloat16, "kv_dtype": "int8"}),
    "int4": Setting({"dtype": jnp.bfloat16, "kv_dtype": "int4"}),
    **{
        f"{kv_dtype}, mass {mass}": Setting(
            {"dtype": jnp.bfloat16, "kv_dtype": kv_dtype, "sketch": True},
            f"offload-kv,sparsify{{mass={mass}}},host-dot,lower-to-ffi",
        )
        for kv_dtype in ("bfloat16", "int4")
        for mass in (0.9, 0.95)
    },
}


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Means over the tokens that are scored. kl: nats, of float32's distribution to this one.
    same_top: how often the likeliest token is float32's. bits_per_byte: of the tokens that are in
    the text. found: rows whose scored tokens are all the likeliest, as a part of all rows.
    read_bytes: of the store, for a token of a row."""

    kl: float
    same_top: float
    bits_per_byte: float
    found: float
    read_bytes: float


@dataclasses.dataclass(frozen=True)
class Reference:
    """A text's prefix, and what float32 thinks of its scored tokens: log-probabilities
    [n, B, V]."""

    texts: Texts
    prefix: Prefix
    log_p: np.ndarray


def reference(model: Decoder, texts: Texts) -> Reference:
    """Float32, from memory."""
    prefix = prefilled(model, texts.tokens, texts.tokens.shape[1] - texts.n_scored)
    logits = forced_logits(model, prefix, REFERENCE, Path())
    return Reference(texts, prefix, np.stack([_log_softmax(each) for each in logits]))


def measure(
    model: Decoder,
    exact: Reference,
    setting: Setting,
    directory: Path,
    token_bytes: Callable[[int], int],
) -> Metrics:
    """A setting against float32, on the same text. token_bytes: how long a token's text is."""
    texts = exact.texts
    targets = texts.tokens[:, -texts.n_scored :].T  # [n, B]
    counts = texts.counts.T
    kl, same, nats, found = [], [], [], np.ones(targets.shape[1], bool)
    read: list[int] = []
    steps = _log_probabilities(model, exact, setting, directory, read.append)
    for log_p, log_q, target, count in zip(exact.log_p, steps, targets, counts, strict=True):
        best = log_q.argmax(-1)
        kl.append((np.exp(log_p) * (log_p - log_q)).sum(-1)[count])
        same.append((best == log_p.argmax(-1))[count])
        nats.append(-np.take_along_axis(log_q, target[:, None], -1)[:, 0][count])
        found &= (best == target) | ~count
    n_bytes = sum(token_bytes(int(token)) for token in targets[counts])
    return Metrics(
        kl=float(np.concatenate(kl).mean()),
        same_top=float(np.concatenate(same).mean()),
        bits_per_byte=float(np.concatenate(nats).sum() / math.log(2) / n_bytes),
        found=float(found.mean()),
        read_bytes=sum(read) / targets.size,
    )


def _log_probabilities(
    model: Decoder,
    exact: Reference,
    setting: Setting,
    directory: Path,
    told: Callable[[int], object],
) -> Iterator[np.ndarray]:
    if setting is REFERENCE:
        yield from exact.log_p
        return
    for logits in forced_logits(model, exact.prefix, setting, directory, told):
        yield _log_softmax(logits)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# ---- the bench ----------------------------------------------------------------------------------


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="default %(default)s")
    parser.add_argument("--contexts", default="2048,4096,8192", help="default %(default)s")
    parser.add_argument("--rows", default=4, type=int, help="texts of each kind")
    parser.add_argument("--scored", default=48, type=int, help="last tokens of each text")
    parser.add_argument("--retrieval-rows", default=16, type=int, help="of each kind")
    args = parser.parse_args()
    args.store.mkdir(parents=True, exist_ok=True)
    measured: dict[str, dict[str, Metrics]] = {}
    for name in args.models.split(","):
        if not MODELS[name].exists():
            parser.error(f"there is no {MODELS[name]}: make smollm2 fetches it")
        model = load_decoder(MODELS[name], dtype="float32")
        for context in map(int, args.contexts.split(",")):
            if context <= model.config.max_position_tokens:
                measured |= measured_at(args, name, model, context)
    publish(args, [text_table(measured), retrieval_table(measured)], measured)


def measured_at(
    args: argparse.Namespace, name: str, model: Decoder, context: int
) -> dict[str, dict[str, Metrics]]:
    """{"model context kind": {setting: metrics}}"""
    encoding, token_bytes = tokenizer_of(MODELS[name])
    kinds = {"code": code(encoding, args.rows, context, args.scored)}
    if name != "tiny":  # which has only ever seen code
        kinds["prose"] = prose(encoding, args.rows, context, args.scored)
    for kind, made in RETRIEVAL.items():
        kinds[kind] = made(encoding, args.retrieval_rows, context)
    found = {}
    for kind, texts in kinds.items():
        exact = reference(model, texts)
        found[f"{name} {context} {kind}"] = {
            setting: measure(model, exact, how, args.store, token_bytes)
            for setting, how in {"float32": REFERENCE, **SETTINGS}.items()
        }
        print(f"{name} {context} {kind}: {found[f'{name} {context} {kind}']}\n", flush=True)
    return found


def tokenizer_of(checkpoint: Path) -> tuple[Encoding, Callable[[int], int]]:
    """Text to tokens, and the bytes of a token's text."""
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer is not None

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def token_bytes(token: int) -> int:
        # byte-level vocabularies: each character of a token stands for a byte
        return len(tokenizer.convert_ids_to_tokens(token))  # pyright: ignore

    return Encoding(tokenizer.encode("", verbose=False), encode), token_bytes


def text_table(measured: Mapping[str, Mapping[str, Metrics]]) -> Table:
    columns = (
        "model, context, text",
        "KV",
        "KL, nats",
        "same top token",
        "bits per byte",
        "MB read a token",
    )
    rows = [
        (
            key,
            kv,
            f"{m.kl:.5f}",
            f"{m.same_top:.1%}",
            f"{m.bits_per_byte:.4f}",
            f"{m.read_bytes / 1e6:.2f}",
        )
        for key, settings in measured.items()
        if not any(kind in key for kind in RETRIEVAL)
        for kv, m in settings.items()
    ]
    return Table(columns, rows)


def retrieval_table(measured: Mapping[str, Mapping[str, Metrics]]) -> Table:
    rows = [
        (key, *(f"{m.found:.0%}" for m in settings.values()))
        for key, settings in measured.items()
        if any(kind in key for kind in RETRIEVAL)
    ]
    return Table(("found: model, context, task", "float32", *SETTINGS), rows)


if __name__ == "__main__":
    main()
