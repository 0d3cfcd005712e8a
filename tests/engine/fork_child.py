"""Run by test_fork.py: a process with stores that forks. Prints one JSON object of what came of it.

fork_child.py JOB DIRECTORY
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from nspjax import _engine
from nspjax.errors import NspjaxError

LIMIT_S = 30
TOKENS, HEADS, D = 2000, 2, 64


def in_child(fn, *, exits=os._exit):
    """What fn returned or raised in a fork's child: its text. And how the child ended."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(LIMIT_S)
        os.close(reading)
        os.write(writing, met(fn).encode())
        os.close(writing)
        exits(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    return told, os.waitpid(pid, 0)[1]


def met(fn) -> str:
    try:
        return f"returned {fn()!r}"
    except NspjaxError as error:
        return f"{type(error).__name__}: {error}"


def int32(*values):
    return np.array(values, np.int32)


def filled(directory, **options):
    directory.mkdir()
    store = _engine.Store([str(directory)], 8 << 20, pinned_bytes=0, **options)
    (cache,) = store.create_caches(1, 2, TOKENS, HEADS, D, "f32")
    return store, cache, store.fill_synthetic(cache, TOKENS)


def contents(store, cache):
    return np.stack([store.read(cache, row, 0, TOKENS) for row in range(2)])


def attended(store, cache, version):
    q = np.ones((2, 1, HEADS, D), np.float32)
    ends = int32(TOKENS, TOKENS)
    return store.attend(cache, version, q, int32(0, 1), ends, ends, 0.1)[0]


# ---- without JAX --------------------------------------------------------------------------------


def engine(directory):
    """Stores with both kinds of queue."""
    told = {io: used_by_children(directory / io, io) for io in ("auto", "pread")}
    print(json.dumps(told))


def used_by_children(directory, io):
    """Children that use the store, end in several ways, and open stores of their own."""
    store, cache, version = filled(directory, io=io)
    number = store.put_weight(np.arange(100_000, dtype=np.uint8))
    file = directory / "nspjax.kv"
    before, size = contents(store, cache), file.stat().st_size
    a = np.zeros((1, 1, HEADS, D), np.float32)
    uses = {
        "append": lambda: store.append(cache, version, a, a, int32(0), int32(TOKENS), int32(0)),
        "attend": lambda: attended(store, cache, version),
        "attend_wait": lambda: store.attend_wait(1),
        "read": lambda: store.read(cache, 0, 0, 10),
        "fetch": lambda: store.fetch(cache, version, int32(0), 0, int32(10), 10),
        "stats": store.stats,
        "trace": store.trace,
        "devices": store.devices,
        "lengths": lambda: store.lengths(cache),
        "create": lambda: store.create_caches(1, 1, 64, 1, 64, "f32"),
        "drop": lambda: store.drop_cache(cache),
        "x_cache": lambda: store.x_cache(cache, 1, 64),
        "export": lambda: store.export_tiles(cache, version, 0, 0, 1),
        "writeback": lambda: store.writeback(cache, 1),
        "flush": store.flush,
        "put_weight": lambda: store.put_weight(np.zeros(10, np.uint8)),
        "load_weight": lambda: store.load_weight(number),
        "load_weight_ahead": lambda: store.load_weight_ahead(number),
        "drop_weights": store.drop_weights,
    }

    def elsewhere():
        other, cache, _ = filled(directory / "in a child")
        same = bool((contents(other, cache) == before).all())
        other.close()
        return same

    def again():
        return _engine.Store([str(directory)], 8 << 20).close()

    result = {
        "uses": {name: in_child(use) for name, use in uses.items()},
        "closed": in_child(lambda: (store.close(), store.closed, store.close())[1]),
        "grandchild": in_child(lambda: in_child(uses["read"])),
        "own": in_child(elsewhere),
        "same": in_child(again),
        "kept": file.stat().st_size == size,
        "data": bool((contents(store, cache) == before).all()),
        "weight": bool((store.load_weight(number) == np.arange(100_000) % 256).all()),
    }
    store.close()
    return result | {"free": met(again)}


def busy(directory):
    """Forks while another thread attends and reads come in: the answers stay the same."""
    stores = [filled(directory / io, io=io) for io in ("auto", "pread")]
    wanted = [attended(*store) for store in stores]
    ended, wrong = threading.Event(), []

    def attend():
        while not ended.is_set():
            for store, expected in zip(stores, wanted, strict=True):
                if not (attended(*store) == expected).all():
                    wrong.append(1)

    threads = [threading.Thread(target=attend) for _ in range(2)]
    for thread in threads:
        thread.start()
    children = [in_child(lambda: stores[0][0].stats()) for _ in range(30)]
    ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"wrong": len(wrong), "children": children}))


def outlived(directory):
    """Leaves a child behind and is killed."""
    store = filled(directory / "store")
    pid = os.fork()
    if pid == 0:
        os.close(1)  # who reads it waits for its end
        os.close(2)
        time.sleep(LIMIT_S)
        os._exit(0)
    print(json.dumps({"child": pid, "store": len(store)}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


# ---- the Python API -----------------------------------------------------------------------------


def api(directory):
    """`with Store`, and all that is reached through it; children end as scripts do."""
    import jax.numpy as jnp

    import nspjax

    shape = {"batch": 1, "capacity_tokens": 256, "n_kv_heads": 1, "head_dim": 64}
    shape["dtype"] = jnp.float32
    (directory / "kv").mkdir()
    result = {}
    store = nspjax.Store(directory / "kv", host_memory="16MiB", pinned=0)
    with store:
        cache = store.fill_synthetic(store.kv_cache(**shape), 200)
        weight = store.put_weight(jnp.ones((4, 4)))
        before = np.asarray(store.fetch(cache).k)
        store.save_prefix(directory / "prefix", [cache], 0, model="m")
        q = jnp.ones((1, 1, 1, 64))
        near = nspjax.near_storage(nspjax.cached_attention, store=store)
        _, cache = near(q, q, q, cache)
        grown = np.asarray(store.fetch(cache).k)
        in_memory = nspjax.KVCache.zeros(1, 256, 1, 64, jnp.float32)

        def traced():
            with nspjax.trace(store, directory / "trace"):
                pass

        uses = {
            "near_storage": lambda: near(q, q, q, cache),
            "fetch": lambda: store.fetch(cache),
            "put": lambda: store.put(in_memory),
            "kv_cache": lambda: store.kv_cache(**shape),
            "kv_pair": lambda: store.kv_pair(in_memory.k, in_memory.v),
            "current": lambda: store.current(cache),
            "check_row": lambda: store.check_row(cache, 0),
            "share_prefix": lambda: store.share_prefix(cache, 0, [0], 10),
            "take_rows": lambda: store.take_rows(cache, [0]),
            "cut": lambda: store.cut(cache, [0]),
            "save_prefix": lambda: store.save_prefix(directory / "p2", [cache], 0, model="m"),
            "load_prefix": lambda: store.load_prefix(directory / "prefix", [cache], 0, model="m"),
            "save_trace": lambda: store.save_trace(directory / "trace"),
            "trace": traced,
            "rates": lambda: store.rates,
            "offload": lambda: store.offload_weights({"a": jnp.ones((4, 4))}, resident=0),
            "drop": lambda: store.drop(cache),
            "drop_weight": lambda: store.drop_weight(weight),
            "stats": store.stats,
        }
        result["uses"] = {name: in_child(use) for name, use in uses.items()}
        result["script"] = in_child(uses["near_storage"], exits=sys.exit)

        def raises():
            with store:
                raise nspjax.errors.InvalidArgumentError("as told")

        result["raises"] = in_child(raises, exits=sys.exit)
        result["data"] = bool((np.asarray(store.fetch(cache).k) == grown).all())
        result["was"] = bool((grown[:, :200] == before[:, :200]).all())
    result["left"] = sorted(os.listdir(directory))
    print(json.dumps(result))


def blocks(directory):
    """Leaves the blocks of a new file and of a trace in children."""
    import jax.numpy as jnp

    import nspjax
    from nspjax.runtime.new_file import new_file

    def left(block, error=None):
        return block.__exit__(error and type(error), error, None)

    file = new_file(directory / "file")
    fd, _ = file.__enter__()
    os.write(fd, b"half")
    told = [in_child(lambda: left(file)), in_child(lambda: left(file, ValueError()))]
    names = os.listdir(directory)
    os.write(fd, b" whole")
    file.__exit__(None, None, None)
    with nspjax.Store("memory:", host_memory="8MiB") as store:
        trace = nspjax.trace(store, directory / "trace")
        trace.__enter__()
        store.kv_cache(batch=1, capacity_tokens=64, n_kv_heads=1, head_dim=64)
        told.append(in_child(lambda: left(trace)))
        jnp.ones(3).block_until_ready()
        trace.__exit__(None, None, None)
    events = len(json.loads((directory / "trace").read_text())["traceEvents"])
    text = (directory / "file").read_text()
    print(json.dumps({"left": told, "names": names, "file": text, "events": events}))


# ---- multiprocessing ----------------------------------------------------------------------------

STORE = []


def of_the_parent(answers, directory):
    """What a child has of its parent's store, and a store of its own beside it."""
    signal.alarm(LIMIT_S)
    inherited = met(lambda: STORE[0][0].read(STORE[0][1], 0, 0, 1)) if STORE else "nothing"
    if STORE:
        STORE[0][0].close()
    own, cache, _ = filled(Path(directory))
    busy = met(lambda: _engine.Store([str(Path(directory).parent / "parent")], 8 << 20))
    answers.put([inherited, own.lengths(cache), busy])
    own.close()


def processes(directory):
    """A child by each start method."""
    result = {}
    STORE.append(filled(directory / "parent"))
    before = contents(*STORE[0][:2])
    for method in ("fork", "forkserver", "spawn"):
        context = multiprocessing.get_context(method)
        answers = context.Queue()
        child = context.Process(target=of_the_parent, args=(answers, str(directory / method)))
        child.start()
        result[method] = answers.get(timeout=LIMIT_S)
        child.join(LIMIT_S)
        result[f"{method} exit"] = child.exitcode
        result[f"{method} data"] = bool((contents(*STORE[0][:2]) == before).all())
    print(json.dumps(result))


if __name__ == "__main__":
    JOBS = {job.__name__: job for job in (engine, busy, outlived, api, blocks, processes)}
    JOBS[sys.argv[1]](Path(sys.argv[2]))
