"""Hub ids, with the hub replaced: nothing here touches the network."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import tiny_checkpoint

from nspjax.errors import CheckpointError
from nspjax.models import load_decoder, resolve_checkpoint


def hub_with(monkeypatch, download) -> None:
    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_a_hub_id_is_downloaded(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def download(hub_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((hub_id, "config.json" in allow_patterns, "*.bin" in allow_patterns))
        return str(tiny_checkpoint.write(tmp_path))

    hub_with(monkeypatch, download)
    assert load_decoder("someone/some-model").config.hidden_size == 16
    assert asked == [("someone/some-model", True, False)]


def test_a_directory_is_preferred_to_a_hub_id(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    hub_with(monkeypatch, None)
    assert resolve_checkpoint("owner/model") == Path("owner/model")


def test_unreachable_hub(monkeypatch) -> None:
    def download(hub_id: str, **_: object) -> str:
        raise ConnectionError("name resolution failed\nand much more")

    hub_with(monkeypatch, download)
    message = (
        r"no directory owner/model, and as a hub id .*ConnectionError: name resolution failed$"
    )
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint("owner/model")


def test_without_huggingface_hub(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'nspjax\[hf\]'"):
        resolve_checkpoint("owner/model")


def test_without_safetensors(tmp_path: Path, monkeypatch) -> None:
    directory = tiny_checkpoint.write(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(CheckpointError, match=r"pip install 'nspjax\[hf\]'"):
        load_decoder(directory)


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere", "a/b/c", "~/nowhere", Path("a/b"), ""])
def test_a_path_is_not_asked_of_the_hub(model, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    hub_with(monkeypatch, None)
    with pytest.raises(CheckpointError, match=r"no directory|no config"):
        load_decoder(model)
