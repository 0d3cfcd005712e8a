"""What answers depend on, of what the command line says: docs/run-batch.md has the whole list."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from nspjax.cli.speculative_option import speculation_of
from nspjax.dtypes import STORED_ONLY

if TYPE_CHECKING:
    from nspjax.cli.batch_options import RunBatch

MAX_NUM_SEQS = 16
"""`LLM`'s default."""


def answer_settings(options: RunBatch) -> dict[str, object]:
    """The settings that a fingerprint has, by name."""
    cards = [spec.partition("?")[0] for spec in options.store if spec.startswith("xrt:")]
    settings: dict[str, object] = {
        "dtype": options.dtype,
        "kv_dtype": options.kv_dtype or "auto",
        "max_model_len": options.max_model_len or "auto",
        "max_num_seqs": options.max_num_seqs or MAX_NUM_SEQS,
        "devices": ",".join(cards) or len(options.store),
    }
    if options.tool_call_parser is not None:
        settings["tool_call_parser"] = options.tool_call_parser
    if (speculation := speculation_of(options.speculative)) is not None:
        settings["speculative"] = ",".join(map(str, dataclasses.astuple(speculation)))
    if options.attention is not None:
        settings["attention"] = options.attention
    if options.store:
        settings |= {
            "pipeline": options.pipeline or "default",
            "interval_tokens": options.interval_tokens or "auto",
            "share_prefixes": options.share_prefixes,
        }
    # Tiles in host memory are attended there, the others on cards; and those that are held back
    # there are not in 8 or 4 bits yet.
    if cards or (options.kv_dtype in STORED_ONLY and options.pipeline):
        settings["host_memory"] = options.host_memory or "4GiB"
    if "XLA_FLAGS" in os.environ:
        settings["xla_flags"] = ",".join(os.environ["XLA_FLAGS"].split())
    return settings
