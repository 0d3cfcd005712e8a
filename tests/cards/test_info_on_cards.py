"""`nspjax info` on a machine with cards."""

import json
import subprocess
import sys

from on_cards import emulated

INFO = (sys.executable, "-m", "nspjax", "info", "--store", "xrt:1,0?timeout_s=3")


def told(*more, tmp_path):
    ended = subprocess.run(
        emulated([*INFO, *more], options=["--compute-units", "2", "--dir", str(tmp_path)]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_cards_of_a_store(tmp_path):
    stores = json.loads(told("--json", tmp_path=tmp_path))["stores"]
    assert [store["kind"] for store in stores] == ["xrt", "xrt"]
    for index, store in zip((1, 0), stores, strict=True):
        card = store["card"]
        assert store["path"].endswith(f"card{index}")
        assert card.pop("platform")
        assert card.pop("xclbin").endswith("emulated.xclbin")
        assert card == {
            "index": index,
            "address": "",
            "kernel": "nspjax_attention",
            "compute_units": 2,
            "timeout_s": 3.0,
        }


def test_as_a_table(tmp_path):
    text = " ".join(told(tmp_path=tmp_path).split())
    assert "cards through XRT" in text
    assert "nspjax_attention, 2 compute units; a run may take 3 s" in text
    assert "at no known PCI address" in text
