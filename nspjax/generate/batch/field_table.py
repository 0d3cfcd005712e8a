"""The fields of a request's body: served, ignored, or known and not supported.

`docs/run-batch.md` has the table that `python -m nspjax.generate.batch.field_table` prints.
"""

from __future__ import annotations

import dataclasses
import json

from nspjax.generate.batch.form_fields import FORM_FIELDS

COMPLETIONS = "/v1/completions"
CHAT_COMPLETIONS = "/v1/chat/completions"
_BOTH = (COMPLETIONS, CHAT_COMPLETIONS)
_IN_TABLE = {COMPLETIONS: "completions", CHAT_COMPLETIONS: "chat"}


@dataclasses.dataclass(frozen=True)
class Served:
    """Fields with what they do, and the endpoints that have them."""

    names: tuple[str, ...]
    meaning: str
    urls: tuple[str, ...] = _BOTH


SERVED = (
    Served(
        ("prompt",),
        "a text, a list of token ids, or a list of either: each gets `n` choices",
        (COMPLETIONS,),
    ),
    Served(
        ("messages",),
        "a conversation, through the checkpoint's chat template",
        (CHAT_COMPLETIONS,),
    ),
    Served(
        ("documents", "chat_template_kwargs", "reasoning_effort"),
        "further arguments of the template",
        (CHAT_COMPLETIONS,),
    ),
    Served(
        ("tools", "tool_choice", "parallel_tool_calls"),
        "functions that the answer may call, or must: see [Tools](#tools)",
        (CHAT_COMPLETIONS,),
    ),
    Served(
        FORM_FIELDS,
        "the form of the answer: see [Structured output](#structured-output)",
    ),
    Served(
        ("continue_final_message", "add_generation_prompt"),
        "continue the last message; begin an answer (the default)",
        (CHAT_COMPLETIONS,),
    ),
    Served(
        ("add_special_tokens",),
        "whether the tokenizer adds BOS and the like: by default for a completion, not for chat, "
        "where the template writes them",
    ),
    Served(
        ("truncate_prompt_tokens",),
        "keep the last so many tokens of the prompt; -1: as many as leave room for `max_tokens`",
    ),
    Served(
        ("max_tokens",),
        "by default 16 for a completion and, for chat, as many as the context has room for; more "
        "than that is refused; with `echo`, 0 generates nothing",
    ),
    Served(("max_completion_tokens",), "`max_tokens`, by its newer name", (CHAT_COMPLETIONS,)),
    Served(("temperature", "top_k", "top_p", "min_p"), "as in vLLM; temperature 0 is greedy"),
    Served(("seed", "n"), "as in OpenAI; up to 128 choices"),
    Served(
        ("presence_penalty", "frequency_penalty", "repetition_penalty"),
        "as in vLLM: the first two count the answer's tokens, the third the prompt's too",
    ),
    Served(("logit_bias", "allowed_token_ids"), "added to tokens' logits; the only tokens allowed"),
    Served(
        ("bad_words",),
        "texts that the answer must not have; words of several tokens slow the job, as each token "
        "is then a call of its own",
    ),
    Served(
        ("stop", "stop_token_ids", "ignore_eos"),
        "when to end before `max_tokens`; a stop text may be a special token",
    ),
    Served(("min_tokens",), "before so many tokens, nothing but the context ends the answer"),
    Served(("include_stop_str_in_output",), "leave the text that ended the answer in it"),
    Served(
        ("logprobs",),
        "for a completion, of each token and of so many of the likeliest, up to 20; for chat, true "
        "or false. They are those of the model's own logits, before penalties, temperature and all "
        "else",
    ),
    Served(("top_logprobs",), "how many of the likeliest, up to 20", (CHAT_COMPLETIONS,)),
    Served(
        ("prompt_logprobs",),
        "of the prompt's tokens, in vLLM's form; the prompt is then computed as a whole, whatever "
        "it shares with others",
    ),
    Served(
        ("echo",),
        "the text begins with the prompt's, and `logprobs` with its tokens'",
        (COMPLETIONS,),
    ),
    Served(
        ("return_token_ids",),
        "token ids as well as text, where vLLM has them; the default for prompts of token ids",
    ),
    Served(
        ("model",),
        "the model of `--model` answers, whatever this says; another name is noted",
    ),
)

IGNORED = frozenset(
    {
        "cache_salt",
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "spaces_between_special_tokens",
        "store",
        "stream_options",
        "user",
    }
)
"""Fields that do not change the answer of an offline job."""

UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "chat_template": (),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "include_reasoning": (True,),
    "kv_transfer_params": (),
    "length_penalty": (1, 1.0),
    "logits_processors": ([],),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_embeds": (),
    "repetition_detection": (),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "stream": (False,),
    "suffix": ("",),
    "thinking_token_budget": (),
    "parallel_tool_calls": (True, False),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncation_side": ("left",),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "vllm_xargs": ({},),
    "web_search_options": (),
}
"""Known fields that are not served, or not by every endpoint, with the values that ask for nothing.
"""


def served(url: str) -> frozenset[str]:
    """The fields that an endpoint serves."""
    return frozenset(name for field in SERVED if url in field.urls for name in field.names)


def table() -> str:
    """All fields, in Markdown."""
    rows = ["| field of `body` | of | meaning |", "|---|---|---|"]
    for field in SERVED:
        of = "both" if field.urls == _BOTH else _IN_TABLE[field.urls[0]]
        rows.append(f"| {_names(field.names)} | {of} | {field.meaning} |")
    everywhere = served(COMPLETIONS) & served(CHAT_COMPLETIONS)
    lacking = {name: ok for name, ok in UNSUPPORTED.items() if name not in everywhere}
    partly = served(COMPLETIONS) | served(CHAT_COMPLETIONS)
    never = [name for name, ok in lacking.items() if not ok]
    rows.append(f"| {_names(sorted(IGNORED))} | both | ignored: an offline job has no use for it |")
    rows.append(f"| {_names(never)} | both | not supported |")
    neutral = [
        f"`{name}` ({' or '.join(f'`{json.dumps(value)}`' for value in ok)})"
        for name, ok in lacking.items()
        if ok and name not in partly
    ]
    rows.append(f"| {', '.join(neutral)} | both | not supported, but for what asks for nothing |")
    return "\n".join(rows) + "\n"


def _names(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)  # pyright: ignore


if __name__ == "__main__":
    print(table(), end="")
