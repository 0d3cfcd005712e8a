"""Where compiled programs are kept, and what of them is thrown away."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest
from jobs import HERE, request_line
from tiny_llama import write_tiny_llama

from nspjax.cli import compilation_cache as module
from nspjax.cli.compilation_cache import cache_directory, compilation_cache, tidy
from nspjax.errors import InvalidArgumentError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)


def test_it_is_the_users_and_the_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = cache_directory(None)
    assert directory.parent == tmp_path / "caches" / "nspjax" / "compiled"
    assert cache_directory(str(tmp_path)) == tmp_path / directory.name
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        monkeypatch.setenv("HOME", "/home/me")
        assert cache_directory(None).parent == Path("/home/me/.cache/nspjax/compiled")
    monkeypatch.setattr(module, "_processor", lambda: "another")
    assert cache_directory(None).name != directory.name


def test_jax_is_told_for_as_long_as_the_job_runs(monkeypatch: pytest.MonkeyPatch):
    before = jax.config.jax_compilation_cache_dir
    with compilation_cache(None):
        assert jax.config.jax_compilation_cache_dir == str(cache_directory(None))
        assert cache_directory(None).stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_dir == before
    with compilation_cache("none"):
        assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/what/the/user/said")
    with compilation_cache(None):
        assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize("kind", ["a file", "writable by others", "no home"])
def test_a_directory_that_cannot_be_used(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    if kind == "a file":
        (tmp_path / "caches").touch()
    elif kind == "writable by others":
        cache_directory(None).mkdir(parents=True)
        cache_directory(None).chmod(0o777)
    else:
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="compiled programs are not kept"), compilation_cache(None):
        assert jax.config.jax_compilation_cache_dir is None
    assert not (tmp_path / "~").exists()
    if kind != "no home":
        named = str(tmp_path / "caches" / "nspjax" / "compiled")
        with (
            pytest.raises(InvalidArgumentError, match=r"--compilation-cache .* cannot be used"),
            compilation_cache(named),
        ):
            pass


def test_entries_that_a_kill_cut_are_thrown_away(tmp_path: Path):
    whole = zlib.compress(os.urandom(1000))
    for name, content in (("old", whole[:500]), ("cut", whole[:-1]), ("whole", whole)):
        (tmp_path / f"{name}-cache").write_bytes(content)
    (tmp_path / "other").write_bytes(b"")
    (tmp_path / "checked").touch()
    os.utime(tmp_path / "checked", ns=(0, (tmp_path / "cut-cache").stat().st_mtime_ns))
    os.utime(tmp_path / "old-cache", ns=(0, 0))  # was looked at the last time
    tidy(tmp_path)
    assert {path.name for path in tmp_path.glob("*[er]")} == {"old-cache", "whole-cache", "other"}


def test_the_least_recently_used_entries_are_thrown_away(tmp_path: Path):
    for age in range(5):
        entry = tmp_path / f"{age}-cache"
        entry.write_bytes(zlib.compress(os.urandom(900)))
        os.utime(entry, (1000 - age, 1000 - age))
    tidy(tmp_path, most_bytes=3000)
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == [
        "0-cache",
        "1-cache",
        "2-cache",
    ]


@pytest.mark.slow
def test_a_second_job_compiles_nothing(tmp_path: Path):
    """Not even with its cache in another directory."""
    model = write_tiny_llama(tmp_path / "tiny-llama")
    (tmp_path / "in.jsonl").write_text(request_line("a", prompt=[1, 2, 3], max_tokens=20))
    cached = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        options = ["-i", tmp_path / "in.jsonl", "-o", tmp_path / f"{name}.jsonl", "--model", model]
        subprocess.run(
            [sys.executable, "-m", "nspjax", "run-batch", *options, "--store", tmp_path / name],
            check=True,
            env=os.environ | {"PYTHONPATH": str(HERE.parent.parent)},
        )
        cached[name] = {path.name for path in cache_directory(None).glob("*-cache")}
    assert any("call" in name for name in cached["one"])
    assert cached["two"] == cached["one"]
    answers = [(tmp_path / f"{name}.jsonl").read_text().split('"choices"')[1] for name in cached]
    assert answers[0] == answers[1]
