"""How fast drives are, for planning: what was measured, or that it is not known."""

import re

import jax.numpy as jnp
import pytest

import nspjax
from nspjax import _engine
from nspjax.cli.info import _profile_text
from nspjax.compiler import mlir
from nspjax.compiler.machine.rates import rates_of, set_rates
from nspjax.runtime.rates import measure_rates

MIB = 1 << 20


def test_a_drive_has_the_rate_of_its_profile(tmp_path):
    """Not that of the host's memory."""
    directories = [tmp_path / name for name in "ab"]
    for directory, rate in zip(directories, ("0.250", "0.500"), strict=True):
        directory.mkdir()
        if _engine.measure_profile(str(directory))["source"] != "measured":
            pytest.skip("this directory cannot be measured")
        path = directory / "nspjax.profile"
        body = path.read_text().split("crc32c")[0]
        body = re.sub(r"(?<=\nread_gb_per_s )\S+", rate, body)
        body = re.sub(r"(?<=\nwrite_gb_per_s )\S+", "0.125", body)
        path.write_text(f"{body}crc32c {_engine.crc32c(body.encode()):08x}\n")
    with nspjax.Store(*directories, host_memory="16MiB") as store:
        assert store.rates.device_bytes_per_s == pytest.approx(0.75e9)
        assert store.rates.write_bytes_per_s == pytest.approx(0.25e9)
    with nspjax.Store(directories[0], "memory:", host_memory="16MiB") as store:
        assert store.rates.write_bytes_per_s is None, "memory's is not known"


UNKNOWN = {
    "block_bytes": 2 * MIB, "depth": 16, "read_gb_per_s": None, "write_gb_per_s": None,
    "source": "default", "note": "this machine was too busy",
}  # fmt: skip


def test_a_rate_that_is_not_known(tmp_path, monkeypatch):
    """It is said, nothing is decided by it, and it is measured when the next store asks."""
    monkeypatch.setattr(_engine, "probe", lambda _: UNKNOWN)
    (tmp_path / "st\udce9").mkdir()
    with nspjax.Store(tmp_path / "st\udce9", host_memory="16MiB") as store:
        with pytest.warns(RuntimeWarning, match=r"st\\xe9 is read is not known: this machine was"):
            assert store.rates is None
        near = nspjax.near_storage(
            nspjax.cached_attention, store=store, pipeline="offload-kv,auto-interleave,lower-to-ffi"
        )
        cache = store.kv_cache(
            batch=2, capacity_tokens=64, n_kv_heads=1, head_dim=64, dtype=jnp.float32
        )
        q = jnp.ones((2, 1, 1, 64))
        near(q, q, q, cache)
    monkeypatch.undo()
    with nspjax.Store(tmp_path, host_memory="16MiB") as store:
        rates = measure_rates(store)
        assert rates is None or rates.device_bytes_per_s > 0


def test_a_module_is_told_nothing():
    module = mlir.parse("module {}")
    set_rates(module, None)
    assert rates_of(module) is None


def test_info_says_so():
    assert "not known" in _profile_text(UNKNOWN)
    assert "this machine was too busy" in _profile_text(UNKNOWN)
    assert "0.00 GB/s" not in _profile_text(UNKNOWN)
