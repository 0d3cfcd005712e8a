"""A request is tokenized, its conversation rendered, and its form compiled, once; and not before
there is nearly room for it."""

import json
from collections import Counter

import pytest
from byte_tokenizer import byte_tokenizer
from tiny_decoder import scripted

from nspjax.errors import RequestError
from nspjax.generate import LLM, Request, SamplingParams, StructuredOutputsParams
from nspjax.generate.batch.job import BatchJob
from nspjax.generate.prepared_request import PreparedRequest
from nspjax.generate.structured.grammar_worker import Matchers

pytest.importorskip("llguidance", reason="needs the extra structured")

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}?"
ROWS = 20
N_FORMS = 50
"""More than one after another, fewer than all: a window of rows has 40."""


class CountedMatchers(Matchers):
    """The process of grammars, in this one."""

    def __init__(self, compiled: Counter):
        super().__init__()
        self._counts = compiled

    def ask(self, request: bytes, *, seconds: float) -> bytes:
        return self.answer(request)

    def close(self) -> None:
        pass

    def _compiled(self, form):
        self._counts[form["choice"][0]] += 1
        return super()._compiled(form)


class Counts:
    """Of what is done for the requests of an LLM that answers "?" with a to i, again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.encoded, self.rendered, self.compiled = Counter(), Counter(), Counter()
        self.llm = LLM(
            scripted("abcdefghi", ord("?")),
            tokenizer=byte_tokenizer(chat_template=TEMPLATE),
            max_num_seqs=ROWS,
            max_model_len=64,
            prefill_budget_tokens=320,
            steps_per_call=4,
        )
        encode, render = self.llm.tokenizer.encode, self.llm._chat_template._process.render

        def counted_encode(text, **how):
            self.encoded[text] += 1
            return encode(text, **how)

        def counted_render(template, messages, variables):
            self.rendered[messages[0]["content"]] += 1
            return render(template, messages, variables)

        monkeypatch.setattr(self.llm.tokenizer, "encode", counted_encode)
        monkeypatch.setattr(self.llm._chat_template._process, "render", counted_render)
        monkeypatch.setattr(self.llm._grammars, "_process", CountedMatchers(self.compiled))


@pytest.fixture
def counts(monkeypatch):
    counts = Counts(monkeypatch)
    with counts.llm:
        yield counts


def choices(i: int) -> list[str]:
    return [f"a{i}", f"b{i}"]


ONCE = {f"a{i}": 1 for i in range(N_FORMS)}


def write(path, bodies) -> str:
    with path.open("w") as file:
        for i, body in enumerate(bodies):
            url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
            line = {"custom_id": str(i), "method": "POST", "url": url, "body": body}
            file.write(json.dumps(line) + "\n")
    return str(path)


def test_in_a_job(counts, tmp_path):
    bodies = [
        {"prompt": f"{i}?", "max_tokens": 4, "temperature": 0, "guided_choice": choices(i)}
        for i in range(N_FORMS)
    ]
    bodies += [
        {"messages": [{"role": "user", "content": f"c{i}"}], "max_tokens": 2, "n": 2}
        for i in range(25)
    ]
    bodies.append({"prompt": ["x?", "y?"], "max_tokens": 2, "echo": True, "stop": "cd"})
    source = write(tmp_path / "in.jsonl", bodies)
    with BatchJob(source, str(tmp_path / "out.jsonl"), model="bytes") as job:
        assert job.run(counts.llm).answered == len(bodies)
    chats = {f"c{i}": 1 for i in range(25)}
    assert counts.compiled == ONCE
    assert counts.rendered == chats
    texts = [f"{i}?" for i in range(N_FORMS)] + [f"{text}?" for text in chats] + ["x?", "y?"]
    assert counts.encoded == dict.fromkeys(texts, 1)


def test_in_a_list_of_prompts(counts):
    conversations = [[{"role": "user", "content": f"c{i}"}] for i in range(3)]
    prompts = [counts.llm.chat_prompt(messages) for messages in conversations]
    prompts += [f"{i}?" for i in range(3, N_FORMS)]
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=4,
            structured_outputs=StructuredOutputsParams(choice=choices(i)),
        )
        for i in range(N_FORMS)
    ]
    outputs = counts.llm.generate(prompts, params)
    assert [output.outputs[0].text for output in outputs] == [f"a{i}" for i in range(N_FORMS)]
    assert counts.compiled == ONCE
    assert counts.rendered == {f"c{i}": 1 for i in range(3)}
    texts = [f"c{i}?" for i in range(3)] + [f"{i}?" for i in range(3, N_FORMS)]
    assert counts.encoded == dict.fromkeys(texts, 1)


def test_in_a_stream_of_what_was_prepared(counts):
    params = SamplingParams(temperature=0, max_tokens=3)
    prepared = [counts.llm.prepare(Request(text, text, params)) for text in ("x?", "y?")]
    with pytest.raises(RequestError, match="the prompt is empty"):
        counts.llm.prepare(Request("z", "", params))
    outputs = list(counts.llm.stream([*prepared, Request("z?", "z?", params)]))
    assert sorted((out.request_id, out.outputs[0].text) for out in outputs) == [
        (text, "abc") for text in ("x?", "y?", "z?")
    ]
    assert counts.encoded == {"x?": 1, "y?": 1, "": 1, "z?": 1}


class Watched:
    """An engine that knows how many of the requests that it has prepared are not answered yet."""

    def __init__(self, llm: LLM):
        self.tools, self.chat_prompt = llm.tools, llm.chat_prompt
        self._llm = llm
        self.waiting = self.most_waiting = 0

    def prepare(self, request: Request) -> PreparedRequest:
        prepared = self._llm.prepare(request)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        return prepared

    def stream(self, requests):
        for output in self._llm.stream(requests):
            self.waiting -= 1
            yield output


def test_a_job_prepares_two_batches_at_most(tmp_path):
    source = write(tmp_path / "in.jsonl", [{"prompt": f"{i}?", "max_tokens": 2} for i in range(90)])
    with (
        LLM(scripted("ab", ord("?")), tokenizer=byte_tokenizer(), max_num_seqs=4) as llm,
        BatchJob(source, str(tmp_path / "out.jsonl"), model="bytes") as job,
    ):
        engine = Watched(llm)
        assert job.run(engine).answered == 90
    assert engine.waiting == 0
    assert 4 < engine.most_waiting <= 8
