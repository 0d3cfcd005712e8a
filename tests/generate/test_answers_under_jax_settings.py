"""No setting of JAX changes an answer: under each it is the same, or the setting is refused."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax_settings import NOT_AT_ONCE, changed, other_values

import nspjax
from nspjax.errors import InvalidArgumentError
from nspjax.generate import LLM, SamplingParams
from nspjax.generate.jax_settings import _REFUSED

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
from tiny_llama import write_tiny_llama

PROMPTS = [[3, 1, 4, 1, 5], [9] * 40, [2, 7]]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=20),
    SamplingParams(temperature=1.0, top_p=0.9, seed=4, max_tokens=20),
    SamplingParams(temperature=1.3, top_k=20, min_p=0.01, seed=5, max_tokens=20),
]


def our_values() -> dict[str, object]:
    return {name: value for name, value in other_values().items() if name not in _REFUSED}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return str(write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny"))


def answers(checkpoint: str, store) -> list[tuple[int, ...]]:
    with LLM(checkpoint, store=store, max_model_len=64, max_num_seqs=3, dtype="bfloat16") as llm:
        return [output.outputs[0].token_ids for output in llm.generate(PROMPTS, PARAMS)]


@pytest.fixture(scope="module")
def store():
    with nspjax.Store("memory:", host_memory="16MiB") as store:
        yield store


@pytest.fixture(scope="module")
def expected(checkpoint, store):
    return answers(checkpoint, None), answers(checkpoint, store)


def test_all_settings_at_once(checkpoint, store, expected):
    at_once = {name: value for name, value in our_values().items() if name not in NOT_AT_ONCE}
    with changed(at_once):
        found = answers(checkpoint, None), answers(checkpoint, store)
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", our_values())
def test_each_setting(checkpoint, store, expected, name: str):
    with changed({name: our_values()[name]}):
        assert (answers(checkpoint, None), answers(checkpoint, store)) == expected


def test_settings_around_one_call_and_not_another(checkpoint, expected):
    with LLM(checkpoint, max_model_len=64, max_num_seqs=3, dtype="bfloat16") as llm:
        with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
            one = [output.outputs[0].token_ids for output in llm.generate(PROMPTS, PARAMS)]
        with jax.threefry_partitionable(False), jax.disable_jit():
            stream = llm.generate(PROMPTS, PARAMS)
            assert jax.config.jax_disable_jit, "the caller's settings stay the caller's"
        assert [one, [output.outputs[0].token_ids for output in stream]] == [expected[0]] * 2


@pytest.mark.parametrize("name", sorted(_REFUSED))
def test_what_cannot_be_is_refused_by_name(checkpoint, name: str):
    value = True if _REFUSED[name] is False else "raise"
    with changed({name: value}), pytest.raises(InvalidArgumentError, match=f"{name}={value!r}"):
        LLM(checkpoint)


def test_a_platform_that_is_not_there_is_refused(checkpoint):
    script = f"import nspjax; nspjax.LLM({str(checkpoint)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "nowhere"},
    )  # fmt: skip
    assert "InvalidArgumentError: JAX starts no device under jax_platforms='nowhere'" in done.stderr
    assert "JAX_PLATFORMS" in done.stderr
