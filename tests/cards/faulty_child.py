"""Run on emulated cards of which some fail: attends until an error comes.

    python faulty_child.py STORE [kill]

Prints one line of JSON: the class and text of the error, the seconds that the call which met it
took, and what the store can do afterwards. kill: ends a device process between two attentions.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from engine_oracle import bits, int32, normal

from nspjax import _engine
from nspjax.errors import NspjaxError

ROWS, TOKENS, HEADS, HEAD_DIM = 2, 600, 2, 64


def device_processes():
    return psutil.Process().children(recursive=True)


def filled_store(spec):
    """A store, and a function that attends over its cache."""
    store = _engine.Store(_engine.expand_cards([spec]), 32 << 20, pinned_bytes=0)
    cache = store.create_caches(1, ROWS, 2 * TOKENS, HEADS, HEAD_DIM, "bf16", 0, "")[0]
    rng = np.random.default_rng(0)
    k, v = (bits(normal(rng, (ROWS, TOKENS, HEADS, HEAD_DIM), "bf16")) for _ in "kv")
    rows, length = int32([0, 1]), int32([TOKENS, TOKENS])
    version = store.append(cache, 0, k, v, rows, int32([0, 0]), length)
    q = normal(rng, (ROWS, 1, 2 * HEADS, HEAD_DIM))

    def attend():
        assert store.lengths(cache) == [TOKENS, TOKENS]
        return store.attend(cache, version, q, rows, length - 1, length, scale=0.1)[0]

    return store, attend


def attend_until_error(spec, kill):
    store, attend = filled_store(spec)
    result = None
    for step in range(20):
        if kill and step == 3:
            os.kill(device_processes()[0].pid, signal.SIGKILL)
        begin = time.monotonic()
        try:
            result = attend()
        except NspjaxError as error:
            seconds = time.monotonic() - begin
            # the rows are there still, and further attentions are told at once
            begin = time.monotonic()
            try:
                attend()
            except NspjaxError:
                pass
            else:
                raise AssertionError("a lost card attends")
            assert time.monotonic() - begin < 2
            store.close()
            if kill:  # as the error says: the same cards, opened again
                store, attend = filled_store(spec)
                np.testing.assert_array_equal(attend(), result)
                store.close()
            return error, seconds
    raise AssertionError("no error came")


def main():
    spec, *rest = sys.argv[1:]
    try:
        error, seconds = attend_until_error(spec, rest == ["kill"])
    except NspjaxError as refused:
        error, seconds = refused, None
    print(json.dumps({"class": type(error).__name__, "text": str(error), "seconds": seconds}))


if __name__ == "__main__":
    main()
