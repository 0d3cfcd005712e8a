"""Weights in a store: what goes in comes out, from files and from memory, ahead of time or not."""

import numpy as np
import pytest

from nspjax.errors import (
    InvalidArgumentError,
    StorageIOError,
    StoreBusyError,
    StoreClosedError,
    StoreDamagedError,
    StoreFullError,
)
from nspjax.runtime.trace import TraceKind, trace_events

SIZES = [0, 1, 4096, 4097, 300_000, 3_000_001]


def weights(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, np.uint8) for size in sizes]


def weight_file(store):
    return store.devices()[0]["path"].replace("nspjax.kv", "nspjax.weights")


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("n_directories", [0, 1, 3])
def test_what_goes_in_comes_out(open_store, n_directories, io):
    store = open_store(n_directories, io=io)
    data = weights(SIZES)
    numbers = [store.put_weight(each) for each in data]
    for _ in range(2):
        for number, each in zip(numbers, data, strict=True):
            np.testing.assert_array_equal(store.load_weight(number), each)
    stats = store.stats()
    assert stats["weight_bytes_stored"] == sum(SIZES)
    assert stats["weight_bytes_read"] == 2 * sum(SIZES)
    assert stats["weight_bytes_read_ahead"] == 0


def test_other_dtypes_and_shapes(open_store):
    store = open_store(1)
    data = np.arange(30, dtype=np.float32).reshape(5, 6)
    number = store.put_weight(data)
    np.testing.assert_array_equal(store.load_weight(number).view(np.float32), data.reshape(-1))


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_what_is_read_ahead_is_there(open_store, io):
    store = open_store(2, io=io)
    data = weights([200_000] * 3)
    numbers = [store.put_weight(each) for each in data]
    for number in numbers:
        store.load_weight_ahead(number)
        store.load_weight_ahead(number)  # once more changes nothing
    for number, each in zip(numbers, data, strict=True):
        np.testing.assert_array_equal(store.load_weight(number), each)
    assert store.stats()["weight_bytes_read_ahead"] == sum(each.nbytes for each in data)
    np.testing.assert_array_equal(store.load_weight(numbers[0]), data[0])
    events = trace_events(store.trace())
    loads = events[events["kind"] == TraceKind.load]
    assert loads["cache"].tolist() == [*numbers, numbers[0]]
    assert set(loads["bytes"]) == {200_000}
    ahead = events[events["kind"] == TraceKind.load_ahead]
    assert ahead["bytes"].tolist() == [200_000, 0] * 3


def test_a_full_ring_is_no_obstacle(open_store):
    """More is asked for ahead than there are buffers: the rest is left to the loads."""
    store = open_store(1)
    data = weights([1_500_000] * 6)
    numbers = [store.put_weight(each) for each in data]
    buffers = store.stats()["weight_buffer_bytes"]
    assert 0 < buffers < 3_000_000
    for number in numbers:
        store.load_weight_ahead(number)
    for number in reversed(numbers):  # not in the order of the buffers
        np.testing.assert_array_equal(store.load_weight(number), data[number])
    ahead = store.stats()["weight_bytes_read_ahead"]
    assert 0 < ahead <= buffers


def test_a_put_takes_the_buffers_of_what_was_read_ahead(open_store):
    store = open_store(1)
    data = weights([1_000_000] * 2 + [4_000_000])
    numbers = [store.put_weight(each) for each in data[:2]]
    for number in numbers:
        store.load_weight_ahead(number)
    numbers.append(store.put_weight(data[2]))
    for number, each in zip(numbers, data, strict=True):
        np.testing.assert_array_equal(store.load_weight(number), each)


def test_what_nobody_asks_for_is_given_up(open_store):
    store = open_store(1)
    data = weights([1_500_000] * 3)
    forgotten, *others = [store.put_weight(each) for each in data]
    store.load_weight_ahead(forgotten)

    def ahead(number):
        before = store.stats()["weight_bytes_read_ahead"]
        store.load_weight_ahead(number)
        np.testing.assert_array_equal(store.load_weight(number), data[number])
        return store.stats()["weight_bytes_read_ahead"] - before

    assert ahead(others[0]) == 0, "the buffers are taken"
    for _ in range(8):
        store.load_weight(others[1])
    assert ahead(others[0]) > 0


def test_dropped_weights(open_store):
    store = open_store(2)
    data = weights([100_000, 200_000])
    first, second = (store.put_weight(each) for each in data)
    store.load_weight_ahead(first)
    store.drop_weight(first)
    for call in (store.load_weight, store.load_weight_ahead, store.drop_weight):
        with pytest.raises(StoreClosedError, match="no weight 0: it was dropped"):
            call(first)
    np.testing.assert_array_equal(store.load_weight(second), data[1])
    third = store.put_weight(data[0])  # in the room of the first
    np.testing.assert_array_equal(store.load_weight(third), data[0])
    store.drop_weights()
    assert store.stats()["weight_bytes_stored"] == 0
    with pytest.raises(StoreClosedError):
        store.load_weight(third)


def test_a_closed_store(open_store):
    store = open_store(1)
    number = store.put_weight(weights([3_000_000])[0])
    store.load_weight_ahead(number)  # in flight
    store.close()
    for call in (store.load_weight, store.load_weight_ahead, store.drop_weight):
        with pytest.raises(StoreClosedError):
            call(number)
    with pytest.raises(StoreClosedError):
        store.put_weight(weights([1])[0])


def test_the_file_is_one_process_s_and_empty_after(open_store, tmp_path):
    import fcntl

    store = open_store(1)
    directory = tmp_path / "device0"
    with open(directory / "nspjax.weights", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreBusyError, match=r"nspjax\.weights"):
            store.put_weight(weights([1])[0])
    store.put_weight(weights([100_000])[0])  # works again
    path = weight_file(store)
    store.close()
    with open(path, "rb") as file:
        assert len(file.read()) == 4096


def test_a_strange_file_is_left_alone(open_store, tmp_path):
    store = open_store(1)
    path = tmp_path / "device0" / "nspjax.weights"
    path.write_bytes(b"mine")
    with pytest.raises(StoreDamagedError, match="not an nspjax store"):
        store.put_weight(weights([1])[0])
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_read_error_fails_one_load(open_store, io, after, ahead):
    store = open_store(1, io=io, fault=f"read:eio:after={after}")
    (data,) = weights([3_000_000])
    number = store.put_weight(data)
    if ahead:
        store.load_weight_ahead(number)
    with pytest.raises(
        StorageIOError, match=r"read of \d+ bytes at offset \d+ of .*nspjax.weights.*Input/output"
    ):
        store.load_weight(number)
    np.testing.assert_array_equal(store.load_weight(number), data)


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("kind", ["eio", "enospc"])
def test_a_write_error_keeps_nothing(open_store, io, kind):
    store = open_store(1, io=io, fault=f"write:{kind}:after=2")
    (data,) = weights([3_000_000])
    error = StoreFullError if kind == "enospc" else StorageIOError
    with pytest.raises(error, match=r"write of \d+ bytes at offset \d+ of .*nspjax.weights"):
        store.put_weight(data)
    assert store.stats()["weight_bytes_stored"] == 0
    np.testing.assert_array_equal(store.load_weight(store.put_weight(data)), data)


def test_short_transfers_are_continued(open_store):
    store = open_store(1, fault="read:short")
    (data,) = weights([3_000_000])
    np.testing.assert_array_equal(store.load_weight(store.put_weight(data)), data)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_flipped_bit_is_found(open_store, ahead):
    store = open_store(1)
    (data,) = weights([3_000_000])
    number = store.put_weight(data)
    with open(weight_file(store), "r+b") as file:
        file.seek(4096 + 1_700_000)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    if ahead:
        store.load_weight_ahead(number)
    with pytest.raises(StoreDamagedError, match=r"at offset \d+ of .*nspjax.weights are damaged"):
        store.load_weight(number)
    store.verify_reads(False)
    assert (store.load_weight(number) != data).sum() == 1


def test_a_file_cut_by_somebody_else(open_store):
    store = open_store(1)
    number = store.put_weight(weights([3_000_000])[0])
    with open(weight_file(store), "r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(StorageIOError, match=r"nspjax.weights failed: the file ends"):
        store.load_weight(number)


def test_buffers_come_out_of_host_memory(open_store):
    store = open_store(1, host_memory=8 << 20)
    before = store.stats()["host_bytes"]
    assert before == store.stats()["staging_bytes"], "none before the first weight"
    store.put_weight(weights([10])[0])
    stats = store.stats()
    assert stats["host_bytes"] == before + stats["weight_buffer_bytes"] <= 8 << 20
    in_memory = open_store(0)
    in_memory.put_weight(weights([10])[0])
    assert in_memory.stats()["weight_buffer_bytes"] == 0


def test_no_host_memory_is_left_for_buffers(open_store):
    store = open_store(1, host_memory=1 << 20)
    row_tails = 760 << 10  # of the 768 KiB beside the staging buffers
    store.create_caches(1, row_tails // (16 * 2 * 64 * 2 * 4), 16, 2, 64, "f32", 16)
    with pytest.raises(StoreFullError, match=r"host memory .* are free, and buffers for weights"):
        store.put_weight(weights([10])[0])


def test_a_tensor_of_another_size_is_refused():
    """What XLA's call does with a handle of something else."""
    import jax
    import jax.numpy as jnp

    from nspjax import Store
    from nspjax.errors import engine_errors

    def load(handle, shape, dtype):
        result = jax.ShapeDtypeStruct(shape, dtype)
        return jax.jit(lambda h: jax.ffi.ffi_call("nspjax.load", result)(h))(handle)

    with Store("memory:") as store:
        weight = store.put_weight(jnp.arange(12, dtype=jnp.int16).reshape(3, 4))
        with engine_errors():
            np.testing.assert_array_equal(
                load(weight.handle, (3, 4), "int16"), np.arange(12).reshape(3, 4)
            )
        message = "has 24 bytes, and a tensor of 48"
        with pytest.raises(InvalidArgumentError, match=message), engine_errors():
            jax.block_until_ready(load(weight.handle, (3, 4), "int32"))
        store.drop_weight(weight)
        with pytest.raises(StoreClosedError), engine_errors():
            jax.block_until_ready(load(weight.handle, (3, 4), "int16"))
