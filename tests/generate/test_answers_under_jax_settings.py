"""No setting of JAX changes an answer: under each it is the same, or the setting is refused."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

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

OTHER = {
    "jax_default_matmul_precision": "bfloat16",
    "jax_default_prng_impl": "rbg",
    "jax_explicit_x64_dtypes": "error",
    "jax_legacy_prng_key": "error",
    "jax_memory_fitting_level": "O0",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_optimization_level": "O1",
    "jax_random_seed_offset": 7,
    "jax_send_traceback_to_runtime": "full",
    "jax_transfer_guard": "disallow",
    "jax_transfer_guard_device_to_device": "disallow",
    "jax_transfer_guard_device_to_host": "disallow",
    "jax_transfer_guard_host_to_device": "disallow",
}
"""What is no bool -> a value that is not the default."""

NOT_OURS = {
    "jax_compilation_cache_expect_pgle": "profiles of GPUs",
    "jax_enable_pgle": "profiles of GPUs",
    "jax_distributed_debug": "prints every program",
    "jax_explain_cache_misses": "logs every tracing",
    "jax_log_compiles": "logs every compilation",
    "jax_raise_persistent_cache_errors": "about a cache on disk",
}


NOT_AT_ONCE = {"jax_scan3"}
"""No trouble alone, but with all others at once JAX itself does not lower a loop."""


def other_values() -> dict[str, object]:
    """Every setting of this JAX that is a bool or one of OTHER, with another value than now."""
    bools = {
        name: not value for name, value in jax.config.values.items() if isinstance(value, bool)
    }
    known = {name: value for name, value in OTHER.items() if name in jax.config.values}
    changed = bools | known
    return {name: changed[name] for name in sorted(changed) if name not in {*NOT_OURS, *_REFUSED}}


@contextlib.contextmanager
def changed(settings: dict[str, object]):
    before = {name: jax.config.values[name] for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


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
    at_once = {name: value for name, value in other_values().items() if name not in NOT_AT_ONCE}
    with changed(at_once):
        found = answers(checkpoint, None), answers(checkpoint, store)
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", other_values())
def test_each_setting(checkpoint, store, expected, name: str):
    with changed({name: other_values()[name]}):
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
