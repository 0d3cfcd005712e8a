"""`LLM`: a checkpoint, ready to answer batches of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax.typing import DTypeLike

from nspjax.errors import RequestError
from nspjax.generate.beams.records import BeamSearchOutput, BeamSearchParams
from nspjax.generate.jax_settings import check_settings, pinned_settings
from nspjax.generate.kv_format import KVFormat
from nspjax.generate.llm_settings import check_at_least_one, checked_pipeline, context_tokens
from nspjax.generate.model_runner import ModelRunner
from nspjax.generate.offloaded_weights import OffloadedWeights
from nspjax.generate.outputs import (
    GenerationStats,
    Prompt,
    Request,
    RequestOutput,
    ServedRow,
    requests_of,
)
from nspjax.generate.prefill_plan import PrefillPlan
from nspjax.generate.prepared_request import PreparedRequest
from nspjax.generate.progress import Progress
from nspjax.generate.request_reader import RequestReader
from nspjax.generate.sampling_params import SamplingParams
from nspjax.generate.serving import Serving
from nspjax.generate.speculation.history import TokenHistory
from nspjax.generate.speculation.settings import NgramSpeculation
from nspjax.generate.structured.token_grammars import TokenGrammars
from nspjax.generate.text.chat_template import ChatTemplate
from nspjax.generate.text.tokenization import chosen_tokenizer
from nspjax.generate.tools.model_tools import ModelTools
from nspjax.models import Decoder, load_config, resolve_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nspjax.compiler import Pipeline
    from nspjax.runtime import Store


class LLM:
    """Generates text with a decoder whose KV cache lives in memory or in a store.

        with nspjax.LLM("path/to/checkpoint", store=store) as llm:
            for output in llm.generate(prompts, nspjax.SamplingParams(max_tokens=64)):
                print(output.outputs[0].text)

    An answer depends on its prompt, its settings and this object's settings alone, not on what
    else is asked: under greedy decoding, and with a seed, it can be repeated to the last token.

    Args:
      model: a Hugging Face directory, a GGUF file, a hub id, or a Decoder.
      store: where the KV cache lives; None: in JAX's default device's memory. It stays the
        caller's and is not closed.
      tokenizer: "auto" takes the checkpoint's, if it has one; another text or a Path: the directory
        or GGUF file of one; or a tokenizer of transformers. Its chat template comes with it. None:
        token-id prompts only.
      tool_call_parser: the format of the model's tool calls: "hermes", "llama3_json", "mistral";
        "auto": what the chat template tells.
      dtype: of the weights: "auto" (the checkpoint's), "float32", "bfloat16", "float16". A Decoder
        keeps its own.
      weights_resident: in a store, how much of the weights stays in memory, such as "4GiB"; the
        others lie in the store too, and are read from it layer by layer in every step, so that a
        model larger than memory runs (see docs/store.md). None: all stay.
      kv_dtype: of the KV cache: a float dtype or, in a store, "int8" or "int4" for all tokens but
        each row's newest; None: as the weights.
      interval_tokens: how many tokens a row gains between two writes to a store's device, see
        `Store.kv_caches`; None: the store chooses.
      share_prefixes: in a store, prompts that begin with the same 64 tokens or more compute and
        keep what they have in common once. That changes what is added to what, so the last bits of
        an answer's numbers then depend on what it shared.
      pipeline: in a store, the passes between the model and XLA: a preset or a text as
        `near_storage` takes it. Caches then have the interval of its delay-writeback, unless
        interval_tokens says otherwise. None: `near_storage`'s.
      attention: in a store, how much of V decode steps read, such as "mass=0.95": the options of
        the pass sparsify. What is left out is estimated, and `Store.stats()` says how much it was:
        see docs/sparse.md. None: all is read.
      speculative: {"method": "ngram", "num_speculative_tokens": 5}: greedy answers go on with what
        followed their last tokens before, in the prompt or the answer, as far as the model agrees:
        several tokens for one reading of the cache (see `speculation.settings`). None: no.
      max_model_len: the most tokens of a prompt and its answer; None: the model's context.
      max_num_seqs: rows, that is sequences generated at the same time.
      prefill_budget_tokens: the most prompt tokens of one compiled call, which bounds the memory
        of prefill. Longer prompts are prefilled in pieces.
      steps_per_call: the most decode steps of one compiled call; fewer where a step is slow.

    Raises:
      CheckpointError: the checkpoint cannot be loaded.
      InvalidArgumentError: a setting out of range.
      StoreFullError: max_num_seqs rows of max_model_len tokens do not fit; says what does.
    """

    @pinned_settings()
    def __init__(
        self,
        model: str | Path | Decoder,
        *,
        store: Store | None = None,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = "auto",
        tool_call_parser: str = "auto",
        dtype: str = "auto",
        weights_resident: str | int | None = None,
        kv_dtype: DTypeLike | None = None,
        interval_tokens: int | None = None,
        share_prefixes: bool = False,
        pipeline: str | Pipeline | None = None,
        attention: str | None = None,
        speculative: Mapping[str, Any] | NgramSpeculation | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 16,
        prefill_budget_tokens: int = 2048,
        steps_per_call: int = 32,
    ) -> None:
        check_settings()
        check_at_least_one(max_num_seqs=max_num_seqs, steps_per_call=steps_per_call)
        pipeline = checked_pipeline(
            pipeline, attention, in_store=store is not None, share_prefixes=share_prefixes
        )
        speculation = None if speculative is None else NgramSpeculation.of(speculative)
        if interval_tokens is None and pipeline is not None:
            interval_tokens = pipeline.writeback_interval_tokens
        kv_format = KVFormat.checked(kv_dtype, interval_tokens, in_store=store is not None)
        self._offloaded = OffloadedWeights(store, weights_resident)
        if isinstance(model, str | Path):
            directory = resolve_checkpoint(model)
            config = load_config(directory)  # before the tokenizer: it matters more if it is wrong
            self.tokenizer, no_tokenizer = chosen_tokenizer(tokenizer, directory)
            decoder = self._offloaded.load(directory, config, dtype)
        else:
            self.tokenizer, no_tokenizer = chosen_tokenizer(tokenizer, None)
            decoder = self._offloaded.replace(model)
        self.config = decoder.config
        self.max_model_len = context_tokens(max_model_len, self.config.max_position_tokens)
        self.tools: ModelTools | None = None
        """How the model writes tool calls; None without a tokenizer."""
        self._chat_template = self._grammars = None
        if self.tokenizer is not None:
            self._chat_template = ChatTemplate(self.tokenizer)
            self._grammars = TokenGrammars(self.tokenizer, self.config.vocab_size)
            self.tools = ModelTools(self.tokenizer, self._grammars, tool_call_parser)
        self._reader = RequestReader(
            self.tokenizer,
            no_tokenizer,
            self.config.vocab_size,
            self.max_model_len,
            tuple(self.config.eos_token_ids),
            self._grammars,
        )
        self._plan = PrefillPlan(max_num_seqs, self.max_model_len, prefill_budget_tokens)
        self._progress = Progress()
        self._runner = ModelRunner(
            decoder,
            store=store,
            pipeline=pipeline,
            n_rows=max_num_seqs,
            capacity_tokens=self.max_model_len,
            kv_format=kv_format,
            share_prefixes=share_prefixes,
            steps_per_call=steps_per_call,
            speculative=speculation,
            compiling=self._progress.compiling,
        )
        self._serving = Serving(
            self._runner,
            self._plan,
            self._reader,
            self._progress,
            None if speculation is None else TokenHistory(max_num_seqs, self.max_model_len),
        )

    # ---- generation -----------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """The answers to all prompts, in their order.

        params: for all prompts, or one a prompt; None: `SamplingParams()`.

        An answer that a store lost on its device, or whose logits are not all finite, has an
        `error` instead of outputs.

        Raises:
          RequestError: one of the requests cannot be served (says which); nothing has run then.
        """
        prepared = self._reader.prepare_all(requests_of(prompts, params))
        outputs = {output.request_id: output for output in self.stream(prepared)}
        return [outputs[each.request.request_id] for each in prepared]

    def prepare(self, request: Request) -> PreparedRequest:
        """The request, ready for this LLM's `stream`: its prompt as `token_ids`, its form compiled.
        It can be served then.

        Raises:
          RequestError: it cannot be served; says why.
        """
        return self._reader.prepare(request)

    def stream(self, requests: Iterable[Request | PreparedRequest]) -> Iterator[RequestOutput]:
        """The answers as they finish. Requests are taken from the iterable as rows come free, at
        most max_num_seqs answers ahead, and prepared then where they are not yet.

        One stream runs at a time. Closing the iterator gives up what is unfinished.

        Raises:
          RequestError: a request that cannot be served ends the stream; `prepare` finds it before.
        """
        return self._serving.outputs(
            each if isinstance(each, PreparedRequest) else self._reader.prepare(each)
            for each in requests
        )

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams
    ) -> list[BeamSearchOutput]:
        """The beam_width most likely answers to each prompt that a beam search finds.

        Candidates, their ends and their ranks are those of transformers' `generate(num_beams=...)`
        with early_stopping=False. max_num_seqs over beam_width prompts are searched for at a time;
        in a store, beams share what they have in common, which is read once for all.

        A prompt after which logits are not all finite has an `error` instead of sequences. A
        failure of the store ends the search.

        Raises:
          RequestError: one of the prompts cannot be served (says which); nothing has run then.
          InvalidArgumentError: more beams than rows.
          OffloadError: the pipeline keeps X.
          StoreError: the store failed.
        """
        if not isinstance(params, BeamSearchParams):
            raise RequestError(f"params must be BeamSearchParams, got {params!r}")
        prepared = self._reader.prepare_all(
            requests_of(prompts, SamplingParams(max_tokens=params.max_tokens, temperature=0))
        )
        return self._serving.beams(prepared, params)

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        add_special_tokens: bool = False,
    ) -> dict[str, Any]:
        """A conversation as a prompt, in the checkpoint's chat template.

        messages: [{"role": "user", "content": "..."}, ...]; content may be a list of text parts.
        tools: JSON schemas, or Python functions as transformers takes them.
        documents, chat_template_kwargs: for the template.
        add_generation_prompt: begin an answer; None: yes, unless
        continue_final_message: the last message is left open, for the answer to go on with it.
        add_special_tokens: let the tokenizer add BOS and the like; most templates write them.

        Returns the text under "prompt", and under "prompt_token_ids" its tokens, which are not
        those that the text alone would get. The template runs in a process of its own, within
        limits (see `nspjax.generate.limited_process`).

        Raises:
          RequestError: the checkpoint has no chat template or tokenizer, or the template refuses
            the messages, or fails at them.
        """
        if self._chat_template is None:
            raise RequestError(
                f"no chat template can be used: {self._reader.no_tokenizer}", param="messages"
            )
        return self._chat_template.prompt(
            messages,
            tools=tools,
            documents=documents,
            chat_template_kwargs=chat_template_kwargs,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            add_special_tokens=add_special_tokens,
        )

    def stats(self) -> GenerationStats:
        """The counts so far; may be called from another thread, for a progress line."""
        return self._progress.stats

    def served(self) -> list[ServedRow]:
        """Which request had which row, and when: the newest 65,536 answers that have finished."""
        return list(self._progress.served)

    # ---- life time ------------------------------------------------------------------------------

    @pinned_settings()
    def close(self) -> None:
        """Give the room of the KV cache and of offloaded weights back, and end the processes that
        render chat templates and hold answers to grammars. The store stays open."""
        for each in (self._chat_template, self._grammars):
            if each is not None:
                each.close()
        self._runner.close()
        self._offloaded.drop()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
