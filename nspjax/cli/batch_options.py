"""What `nspjax run-batch` was asked, and which options are refused before a file is opened."""

from __future__ import annotations

import dataclasses
import os
import re

from nspjax.byte_size import parse_bytes
from nspjax.cli.output_file import check_output
from nspjax.cli.progress import ProgressStyle
from nspjax.cli.speculative_option import speculation_of
from nspjax.dtypes import STORED_ONLY
from nspjax.errors import CheckpointError, InvalidArgumentError
from nspjax.message_text import printable

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclasses.dataclass(frozen=True)
class RunBatch:
    """What was asked on the command line. None: the default of `LLM` or `Store`."""

    input: str
    output: str
    model: str
    store: tuple[str, ...] = ()
    host_memory: str | None = None
    dtype: str = "auto"
    kv_dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    resume: bool = False
    overwrite: bool = False
    seed: int = 0
    progress: ProgressStyle = ProgressStyle.auto
    debug: bool = False
    trace: str | None = None
    share_prefixes: bool = False
    pipeline: str | None = None
    weights_resident: str | None = None
    interval_tokens: int | None = None
    errors: str | None = None
    limit: int | None = None
    compilation_cache: str | None = None
    tool_call_parser: str | None = None
    speculative: str | None = None
    attention: str | None = None


def served_name(model: str) -> str:
    """The name that results carry: a hub id as it is, the own name of a directory or a GGUF file,
    as UTF-8 has it."""
    path = os.path.expanduser(model)
    name = os.path.basename(os.path.realpath(path)) if os.path.exists(path) else model
    return printable(name.removesuffix(".gguf"))


def check_options(options: RunBatch) -> None:
    """Refuse what needs no file to be opened.

    Raises:
      InvalidArgumentError, CheckpointError: an option that cannot be served.
    """
    if options.resume and options.overwrite:
        raise InvalidArgumentError("--resume and --overwrite exclude each other")
    if options.host_memory is not None:
        if not options.store:
            raise InvalidArgumentError("--host-memory is a store's: it needs --store")
        parse_bytes(options.host_memory)
    if options.weights_resident is not None:
        if not options.store:
            raise InvalidArgumentError("--weights-resident: the rest is in a store: give --store")
        parse_bytes(options.weights_resident, least=0)
    if options.kv_dtype in STORED_ONLY and not options.store:
        raise InvalidArgumentError(f"--kv-dtype {options.kv_dtype} is a store's: it needs --store")
    if options.pipeline is not None:
        if not options.store:
            raise InvalidArgumentError("--pipeline is of passes for a store: it needs --store")
        from nspjax.compiler import Pipeline

        Pipeline.parse(options.pipeline)
    if options.attention is not None:
        if not options.store:
            raise InvalidArgumentError("--attention is how a store is read: it needs --store")
        from nspjax.generate.llm_settings import checked_pipeline

        checked_pipeline(
            options.pipeline,
            options.attention,
            in_store=True,
            share_prefixes=options.share_prefixes,
        )
    if options.interval_tokens is not None and not options.store:
        raise InvalidArgumentError("--interval-tokens is how a store writes: it needs --store")
    speculation_of(options.speculative)
    _check_trace(options)
    path = os.path.expanduser(options.model)
    if os.path.isdir(path):
        return
    if os.path.exists(path):
        if path.endswith(".gguf"):
            return
        raise CheckpointError(
            f"--model {options.model} is a file: give its directory, or a .gguf file"
        )
    if path.endswith(".gguf"):
        raise CheckpointError(f"--model {options.model}: there is no such file")
    if not _HUB_ID.fullmatch(options.model):
        raise CheckpointError(
            f"--model {options.model}: there is no such directory, and a hub id reads owner/name"
        )


def _check_trace(options: RunBatch) -> None:
    if options.trace is None:
        return
    if not options.store:
        raise InvalidArgumentError("--trace shows what a store does: it needs --store")
    others = [options.input, options.output, *filter(None, [options.errors])]
    check_output("--trace", options.trace, other_than=others, ordinary=True)
