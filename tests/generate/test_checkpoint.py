"""`LLM` over checkpoints of real architectures, as they lie in a Hugging Face directory."""

import shutil
from pathlib import Path

import pytest
from byte_tokenizer import BOS, byte_tokenizer
from tiny_decoder import greedy_by_hand

from nspjax.errors import CheckpointError, RequestError
from nspjax.generate import LLM, SamplingParams
from nspjax.models import load_decoder
from nspjax.models.json_file import read_json

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
OPTIONS = {"max_num_seqs": 3, "prefill_budget_tokens": 32, "steps_per_call": 8, "max_model_len": 64}
GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)


@pytest.mark.parametrize("family", ["mistral_window", "opt"])
def test_greedy_answers_are_those_of_the_plainest_loop(family):
    prompts = [list(range(5, 25)), list(range(3, 52)), [11] * 17]  # all in one bucket
    decoder = load_decoder(GOLDENS / family, dtype="float32")
    with LLM(GOLDENS / family, dtype="float32", **OPTIONS) as llm:
        answers = [list(output.outputs[0].token_ids) for output in llm.generate(prompts, GREEDY)]
    assert answers == greedy_by_hand(decoder, prompts, 10)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint with a tokenizer and a chat template. Its vocabulary is smaller than bytes."""
    shutil.copytree(GOLDENS / "llama", tmp_path, dirs_exist_ok=True)
    template = "{{ bos_token }}{{ messages[0].content }}:"
    byte_tokenizer(add_bos=True, chat_template=template).save_pretrained(tmp_path)
    return tmp_path


def test_the_tokenizer_and_the_chat_template_come_with_the_checkpoint(checkpoint):
    with LLM(checkpoint, **OPTIONS) as llm:
        prompt = llm.chat_prompt([{"role": "user", "content": "hé"}])
        assert prompt["prompt"] == "<s>hé:"
        assert prompt["prompt_token_ids"] == (BOS, *"hé:".encode())
    with LLM(checkpoint, tokenizer=None, **OPTIONS) as llm:
        assert llm.tokenizer is None
        with pytest.raises(RequestError, match="made with tokenizer=None: give token ids"):
            llm.chat_prompt([{"role": "user", "content": "hi"}])


def test_each_file_of_settings_is_read_once(checkpoint, monkeypatch):
    read = []
    monkeypatch.setattr(
        "nspjax.models.checkpoint.read_json", lambda path: read.append(path) or read_json(path)
    )
    with LLM(checkpoint, **OPTIONS):
        names = [path.name for path in read]
        assert "config.json" in names
        assert sorted(names) == sorted(set(names))


def test_a_directory_without_tokenizer_serves_token_ids(tmp_path):
    shutil.copytree(GOLDENS / "llama", tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)
    with LLM(tmp_path, **OPTIONS) as llm:
        assert llm.generate([[3, 4]], GREEDY)[0].outputs[0].text == ""
        with pytest.raises(RequestError, match=r"no tokenizer\.json"):
            llm.generate(["text"], GREEDY)


def test_a_tokenizer_may_lie_elsewhere(checkpoint, tmp_path_factory):
    with LLM(GOLDENS / "llama", tokenizer=str(checkpoint), **OPTIONS) as llm:
        assert llm.tokenizer.encode("!") == [BOS, ord("!")]
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(CheckpointError, match=r"^tokenizer='.*': .* has no tokenizer\.json"):
        LLM(GOLDENS / "llama", tokenizer=str(empty), **OPTIONS)


def test_a_missing_checkpoint_is_named():
    with pytest.raises(CheckpointError, match="/no/such/model"):
        LLM("/no/such/model")
