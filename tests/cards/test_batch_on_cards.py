"""A batch job whose KV cache is on emulated cards: the answers, and the way that K and V took."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from on_cards import emulated

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "examples/tiny-python-llama"
N_ROWS, PROMPT_BYTES, MAX_TOKENS = 3, 700, 16


@pytest.fixture
def requests(tmp_path):
    """Greedy, of one length (one shape to compile), and long enough for full tiles."""
    text = (REPOSITORY / "nspjax/runtime/store.py").read_text()
    lines = [
        {
            "custom_id": f"r{i}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {
                "model": MODEL.name,
                "prompt": text[i * 900 :][:PROMPT_BYTES],
                "max_tokens": MAX_TOKENS,
                "temperature": 0,
            },
        }
        for i in range(N_ROWS)
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run_batch(requests, answers, stores, wrap: Callable[[list[str]], list[str]] = list):
    command = [
        sys.executable, "-m", "nspjax", "run-batch", "-i", requests, "-o", answers,
        "--model", MODEL,
        "--max-num-seqs", N_ROWS, "--host-memory", "2MiB", "--progress", "none",
        *(part for store in stores for part in ("--store", store)),
    ]  # fmt: skip
    ended = subprocess.run(
        wrap(list(map(str, command))), capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = map(json.loads, answers.read_text().splitlines())
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["text"] for line in lines}


def test_the_answers_of_files(requests, tmp_path):
    log = tmp_path / "cards.log"
    for name in ("kv0", "kv1"):
        (tmp_path / name).mkdir()
    files = run_batch(requests, tmp_path / "files.jsonl", [tmp_path / "kv0", tmp_path / "kv1"])
    options = ["--strict-sync", "--log", str(log), "--dir", str(tmp_path)]
    cards = run_batch(
        requests,
        tmp_path / "cards.jsonl",
        ["xrt:0,1"],
        lambda command: emulated(command, cards=2, options=options),
    )
    assert len(files) == N_ROWS
    assert cards == files

    events = [json.loads(line) for line in log.read_text().splitlines()]
    buffers = {
        (event["card"], event["address"]): event for event in events if event["event"] == "allocate"
    }
    runs = [event for event in events if event["event"] == "run_begin"]
    assert {run["card"] for run in runs} == {0, 1}
    assert len(runs) == sum(event["event"] == "run_end" for event in events)
    # decode attends over all layers at every step, but for the first token's
    assert len(runs) >= 4 * (MAX_TOKENS - 1)

    # K and V: in the one buffer that the drive writes into, which has no copy in the host
    places = {(run["card"], run["arguments"]["kv"]["buffer"]) for run in runs}
    assert len(places) == 2, "one a card"
    for place in places:
        assert (buffers[place]["kind"], buffers[place]["shared"]) == ("p2p", True)
    copies = [event for event in events if event["event"] in ("to_device", "to_host")]
    assert all(event["copied"] for event in copies), "strict: what is synced is copied"
    for event in copies:
        begin, end = event["address"], event["address"] + event["bytes"]
        for card, address in places:
            outside = end <= address or begin >= address + buffers[card, address]["bytes"]
            assert card != event["card"] or outside, "no copy touched K and V"
    copied = sum(event["bytes"] for event in copies)
    kv_bytes = 2 * 2 * 32 * 2 * N_ROWS * PROMPT_BYTES * len(runs) // 2  # what runs went over, about
    assert copied < kv_bytes / 10, "queries and results only"
