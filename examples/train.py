"""Train tiny-python-llama: a byte-level Llama with grouped-query attention, under 4 MB in bf16.

The text is what every Python carries: the sources of its standard library. One file in forty is
held out, chosen by a hash of its path, so that the split is the same on every machine. The run is
given minutes, not steps: context lengths and learning rate follow the clock, and the rate reaches
zero when the time is up. Whatever --out holds is a complete Hugging Face checkpoint at any moment.

    python examples/train.py --out examples/tiny-python-llama --minutes 70
"""

import argparse
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from byte_tokenizer import BOS, EOS, PAD, SPECIAL, VOCAB, build_tokenizer
from held_out import bits_per_byte, losses
from library import read_library
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

ROPE_THETA = 50000.0


@dataclass
class Progress:
    """What the card reports; kept beside the checkpoint as training.json."""

    command: str = ""
    tokens_seen: int = 0
    tokens_by_context: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    minutes: float = 0.0
    train_files: int = 0
    train_bytes: int = 0
    held_out_files: int = 0
    held_out_bytes: int = 0
    held_out_bits_per_byte: float = math.nan
    bits_per_byte_by_position: dict[str, float] = field(default_factory=dict)


def build_model(context: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=400,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def windows(stream: Tensor, context: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Windows of context + 1 tokens in random order, for ever. Each opens a line, behind a BOS."""
    while True:
        phase = int(torch.randint(context, (), generator=generator))
        starts = torch.arange(phase, len(stream) - 2 * context, context)
        for start in starts[torch.randperm(len(starts), generator=generator)].tolist():
            newlines = (stream[start : start + 128] == ord("\n")).nonzero()
            start += int(newlines[0]) if len(newlines) else 0
            window = stream[start : start + context + 1].clone()
            window[0] = BOS
            yield window


def build_optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest.

    In one-minute trials, one seed, AdamW alone (at one rate) was behind; nothing longer was tried.
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(progress: float, decay_from: float = 0.5) -> float:
    """Warm up, hold, then go down to zero in a straight line."""
    return min(1.0, progress / 0.01, (1 - progress) / (1 - decay_from))


def amend(path: Path, **entries: str | float) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries, indent=2) + "\n")


def save(model: LlamaForCausalLM, out: Path, progress: Progress) -> None:
    """Write a complete checkpoint; the weights alone are rounded to bf16."""
    rounded = LlamaForCausalLM(model.config).to(torch.bfloat16)
    rounded.load_state_dict(model.state_dict())
    rounded.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=True, temperature=0.6
    )
    rounded.save_pretrained(out)
    build_tokenizer().save_pretrained(out, save_jinja_files=False)
    # Readers older than transformers 5 look for these names.
    amend(out / "config.json", rope_theta=ROPE_THETA)
    amend(out / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    (out / "model.safetensors").chmod(0o644)
    (out / "training.json").write_text(json.dumps(asdict(progress), indent=2) + "\n")


def train(args: argparse.Namespace) -> Progress:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(args.seed)
    files, held_out = read_library()
    order = torch.randperm(len(files), generator=generator).tolist()
    stream = torch.tensor([t for i in order for t in (BOS, *files[i], EOS)], dtype=torch.int16)
    progress = Progress(
        command=shlex.join(["python", *sys.argv]),
        train_files=len(files),
        train_bytes=sum(map(len, files)),
        held_out_files=len(held_out),
        held_out_bytes=sum(map(len, held_out)),
    )
    model = build_model(args.context)
    if args.resume:
        model = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
        before = Progress(**json.loads((args.out / "training.json").read_text()))
        before.command += "\n" + progress.command
        progress = before
    already = progress.minutes
    optimizers = build_optimizers(model)
    print(f"{model.num_parameters():,} parameters, {progress}", flush=True)

    begun = saved = time.monotonic()
    sources = {c: windows(stream, c, generator) for c in (*args.short, args.context)}
    stages = [*zip((0.0, args.middle_from), args.short, strict=False)]
    stages.append((args.long_from, args.context))
    while (done := (time.monotonic() - begun) / (60 * args.minutes)) < 1:
        context = next(c for start, c in reversed(stages) if done >= start)
        batch = [next(sources[context]) for _ in range(args.batch_tokens // context)]
        tokens = torch.stack(batch).long()
        loss = losses(model, tokens, args.amp).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * rate(done)
            optimizer.step()
            optimizer.zero_grad()
        progress.steps += 1
        progress.tokens_seen += args.batch_tokens
        seen = progress.tokens_by_context
        seen[str(context)] = seen.get(str(context), 0) + args.batch_tokens
        progress.minutes = already + (time.monotonic() - begun) / 60
        if progress.steps % 20 == 0:
            bits = loss.item() / math.log(2)
            print(
                f"{progress.minutes:6.2f} min {progress.steps:6d} steps {context:5d} context "
                f"{progress.tokens_seen / 1e6:7.2f} M tokens {bits:.3f} bits/byte",
                flush=True,
            )
        if time.monotonic() - saved > 60 * args.save_every:
            progress.held_out_bits_per_byte, _ = bits_per_byte(model, held_out, args.context, 8)
            print(f"held out: {progress.held_out_bits_per_byte:.3f} bits/byte", flush=True)
            save(model, args.out, progress)
            saved = time.monotonic()
    save(model, args.out, progress)
    return progress


def finish(out: Path, context: int, threads: int) -> None:
    """Measure the checkpoint as it lies on disk (weights rounded to bf16) and write its card."""
    torch.set_num_threads(threads)
    progress = Progress(**json.loads((out / "training.json").read_text()))
    _, held_out = read_library()
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    bits, by_position = bits_per_byte(model, held_out, context)
    progress.held_out_bits_per_byte, progress.bits_per_byte_by_position = bits, by_position
    (out / "training.json").write_text(json.dumps(asdict(progress), indent=2) + "\n")
    config = model.config
    template = Path(__file__).with_name("card.md").read_text()
    card = template.format(
        parameters=model.num_parameters(),
        size=(out / "model.safetensors").stat().st_size,
        shape=f"{config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{config.num_attention_heads} query and {config.num_key_value_heads} KV heads of "
        f"{config.head_dim}, MLP {config.intermediate_size}, tied embeddings",
        context=context,
        python=platform.python_version(),
        contexts=", ".join(
            f"{n / 1e6:.1f} M at {c}" for c, n in progress.tokens_by_context.items()
        ),
        threads=threads,
        bos=SPECIAL[0],
        eos=SPECIAL[1],
        positions="\n".join(f"| {name} | {value:.3f} |" for name, value in by_position.items()),
        **asdict(progress),
    )
    (out / "README.md").write_text(card)
    print(f"held out: {bits:.4f} bits/byte, {by_position}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-python-llama")
    parser.add_argument("--minutes", type=float, default=70.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compute in bf16 (faster where the CPU has AVX512-BF16 or AMX)",
    )
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--context", type=int, default=4096, help="context of the last phase")
    parser.add_argument(
        "--short",
        type=int,
        nargs=2,
        default=(512, 1024),
        help="contexts of the two phases before it",
    )
    parser.add_argument("--middle-from", type=float, default=0.5, help="share of the time")
    parser.add_argument("--long-from", type=float, default=0.8, help="share of the time")
    parser.add_argument("--save-every", type=float, default=5.0, help="minutes")
    parser.add_argument("--resume", action="store_true", help="go on from the weights in --out")
    parser.add_argument("--only-card", action="store_true", help="measure what is in --out again")
    args = parser.parse_args()
    if not args.only_card:
        train(args)
    finish(args.out, args.context, args.threads)


if __name__ == "__main__":
    main()
