"""`PreparedRequest`: between reading a request and running its answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nspjax.errors import RequestError
from nspjax.generate.answer import Answer
from nspjax.generate.outputs import CompletionOutput, Request, RequestOutput
from nspjax.generate.sampling.request_terms import RequestTerms
from nspjax.generate.text.stop_texts import StopTexts
from nspjax.generate.text.token_texts import TokenTexts


@dataclasses.dataclass(frozen=True)
class PreparedRequest:
    """A request that can be served, by the LLM that prepared it: nothing of it is to be tokenized,
    checked or compiled again.

    text, token_ids: of the prompt, as the output shows it and as the model sees it. max_tokens:
    what params and the context allow. stops: the stop texts, None where there are none. terms: what
    it asks of the logits.
    """

    request: Request
    text: str | None
    token_ids: tuple[int, ...]
    max_tokens: int
    stops: StopTexts | None
    terms: RequestTerms

    def output(self, answers: Sequence[Answer], token_texts: TokenTexts) -> RequestOutput:
        """What its finished answers make. Greedy ones are all the same, so that one has run."""
        error = next((answer.error for answer in answers if answer.error), None)
        outputs: tuple[CompletionOutput, ...] = ()
        of_prompt = first_token = None
        if error is None:
            try:
                outputs = tuple(answer.output(token_texts) for answer in answers)
                of_prompt = answers[0].prompt_logprobs(token_texts)
                first_token = token_texts[self.token_ids[0]] if of_prompt else None
            except RequestError as failure:  # the tokenizer's, at what was generated
                outputs, error = (), failure
        if len(outputs) == 1:
            every = range(self.request.params.n)
            outputs = tuple(dataclasses.replace(outputs[0], index=index) for index in every)
        return RequestOutput(
            self.request.request_id,
            self.text,
            self.token_ids,
            outputs,
            error,
            of_prompt,
            first_token,
        )
