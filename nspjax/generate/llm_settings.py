"""What `LLM` refuses of its settings before it loads anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nspjax.errors import InvalidArgumentError, PipelineError

if TYPE_CHECKING:
    from nspjax.compiler import Pipeline


def check_at_least_one(**counts: int) -> None:
    """Refuse a count below 1, by its name."""
    for name, value in counts.items():
        if value < 1:
            raise InvalidArgumentError(f"{name} must be at least 1, got {value}")


def context_tokens(max_model_len: int | None, model_limit: int) -> int:
    """The most tokens of a prompt and its answer: what is asked for, or the model's context."""
    if max_model_len is None:
        return model_limit
    if not 2 <= max_model_len <= model_limit:
        raise InvalidArgumentError(
            f"max_model_len must be from 2 to the model's context of {model_limit} tokens, "
            f"got {max_model_len}"
        )
    return max_model_len


def checked_pipeline(
    pipeline: str | Pipeline | None, attention: str | None, *, in_store: bool, share_prefixes: bool
) -> Pipeline | None:
    """The pipeline that is asked for. attention: options of sparsify.

    Raises:
      InvalidArgumentError: there is no store, or it keeps what shared prefixes cannot share.
      PipelineError: there is no such pipeline, or no such option.
    """
    for name, value in (("pipeline", pipeline), ("attention", attention)):
        if value is not None and not in_store:
            raise InvalidArgumentError(f"{name}={str(value)!r} needs a store: give store=")
    if pipeline is None and attention is None:
        return None
    from nspjax.compiler import DEFAULT_PIPELINE, Pipeline

    pipeline = pipeline or DEFAULT_PIPELINE
    parsed = Pipeline.parse(pipeline) if isinstance(pipeline, str) else pipeline
    if attention is not None:
        if parsed.needs_sketches or set(attention) & set("{}"):
            raise PipelineError(
                f"attention={attention!r} must be options of sparsify, option=value,option=value, "
                f"which the pipeline must not have already: {str(parsed)!r}"
            )
        (sparsify,) = Pipeline.parse(f"sparsify{{{attention}}}").passes
        parsed = parsed.including(sparsify)
    if share_prefixes and parsed.may_keep_x:
        raise InvalidArgumentError(
            "share_prefixes shares keys and values, and x-cache keeps X in their place: take one "
            "of the two, or x-cache{fraction=0}"
        )
    return parsed
