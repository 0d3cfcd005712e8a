"""The end of a job in a few lines."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from nspjax.byte_size import format_bytes
from nspjax.cli.progress import clock

if TYPE_CHECKING:
    from nspjax.generate import GenerationStats
    from nspjax.generate.batch.job import BatchProgress
    from nspjax.runtime import StoreStats


def summary(
    progress: BatchProgress,
    generated: GenerationStats,
    stored: StoreStats | None,
    *,
    seconds: float,
    output: str,
    errors: str | None,
) -> str:
    """Requests, speeds, KV traffic and memory of this run. stored: None without a store."""
    lines = [
        _requests(progress, seconds, output, errors),
        _speed("prefill", generated.prompt_tokens, generated.prefill_seconds)
        + _shared(generated.shared_prompt_tokens),
        _speed("decode", generated.generated_tokens, generated.decode_seconds)
        + _drafts(generated.draft_tokens, generated.accepted_draft_tokens),
    ]
    if generated.programs_compiled:
        lines.append(
            f"  compiled  {generated.programs_compiled} programs, {generated.compile_seconds:.1f} s"
        )
    if stored is not None:
        gb_per_s = stored.bytes_read / max(generated.decode_seconds, 1e-9) / 1e9
        lines.append(
            f"  KV cache  {format_bytes(stored.bytes_written)} written, "
            f"{format_bytes(stored.bytes_read)} read, {gb_per_s:.2f} GB/s of decode time"
        )
        if stored.sparse_heads:
            share = stored.sparse_tokens_read / stored.sparse_tokens
            lines.append(
                f"  attention V of {share:.1%} of the tokens; of the softmax, "
                f"{stored.left_out:.2%} is estimated, at most {stored.most_left_out_ppb / 1e9:.2%}"
            )
        if stored.weight_bytes_stored:
            lines.append(
                f"  weights   {format_bytes(stored.weight_bytes_stored)} in the store, "
                f"{format_bytes(stored.weight_bytes_read)} read"
            )
        lines.append(
            f"  host      {format_bytes(stored.host_bytes)} of the store's: "
            f"{format_bytes(stored.staging_bytes)} staging, {format_bytes(stored.tail_bytes)} "
            f"tails, {format_bytes(stored.pinned_bytes)} pinned" + _others(stored)
        )
    return "\n".join([*lines, f"  memory    {format_bytes(peak_memory_bytes())} at its peak"])


def _others(stored: StoreStats) -> str:
    """What only some stores have in host memory."""
    there = ((stored.sketch_bytes, "sketches"), (stored.weight_buffer_bytes, "for weights"))
    return "".join(f", {format_bytes(size)} {what}" for size, what in there if size)


def requests(count: int) -> str:
    """1 -> "1 request", 2 -> "2 requests"."""
    return f"{count} request" if count == 1 else f"{count} requests"


def peak_memory_bytes() -> int:
    """The most memory that this process has held (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _requests(progress: BatchProgress, seconds: float, output: str, errors: str | None) -> str:
    where = "standard output" if output == "-" else output
    text = f"{requests(progress.finished - progress.before)} in {clock(seconds)} -> {where}"
    if progress.before:
        text += f" ({progress.before} finished before)"
    if progress.refused:
        where = "their error lines" if errors is None else errors
        text += f"; {progress.refused} could not be served: see {where}"
    return text


def _shared(n_tokens: int) -> str:
    return f"; {n_tokens:,} more shared" if n_tokens else ""


def _drafts(n_tokens: int, n_accepted: int) -> str:
    return f"; {n_accepted:,} of {n_tokens:,} drafts accepted" if n_tokens else ""


def _speed(name: str, n_tokens: int, seconds: float) -> str:
    return f"  {name:<8}  {n_tokens:,} tokens, {n_tokens / max(seconds, 1e-9):,.1f} tokens/s"
