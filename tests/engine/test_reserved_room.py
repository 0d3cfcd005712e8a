"""A cache has its room from when it is made: nobody else on the file system can take it."""

from test_faults import in_own_mounts


def told(script):
    return dict(line.split(": ", 1) for line in in_own_mounts(script).splitlines())


def test_a_full_file_system():
    """8 MiB: what does not fit is refused when it is made, what was made can be filled, whatever
    other files take."""
    lines = told("""
        import os
        path = mount("tmpfs", "size=8m")
        store = _engine.Store([path], 4 << 20, pinned_bytes=0)
        try:
            store.create_caches(1, 4, 8192, 2, 64, "bf16", 16)
        except errors.StoreFullError as error:
            print("refused:", error)
        cache, = store.create_caches(1, 1, 8192, 2, 64, "bf16", 16)
        print("taken:", os.stat(path + "/nspjax.kv").st_blocks * 512)
        try:
            with open(path + "/other", "wb") as other:
                other.write(bytes(8 << 20))
        except OSError as error:
            print("other:", error)
        print("free:", store.devices()[0]["free_bytes"])
        k = np.arange(8192 * 2 * 64, dtype=np.uint16).reshape(1, 8192, 2, 64)
        one = np.array([0], np.int32)
        store.append(cache, 0, k, k, one, one, np.array([8192], np.int32))
        store.flush()
        print("same:", (store.read(cache, 0, 0, 8192)[0] == k[0]).all())
        store.drop_cache(cache)
        print("then:", store.devices()[0]["free_bytes"])
        store.close()
        print("left:", os.stat(path + "/nspjax.kv").st_size)
    """)
    cache_bytes = 8192 * 2 * 64 * 2 * 2
    assert "1 of the 4 rows fit" in lines["refused"]
    assert int(lines["taken"]) >= cache_bytes
    assert "No space left on device" in lines["other"]
    assert lines["free"] == "0"
    assert lines["same"] == "True"
    assert int(lines["then"]) >= cache_bytes, "given back"
    assert lines["left"] == "4096"


TWO_STORES = """
    import os
    path = mount("tmpfs", "size=16m")
    a, b = path + "/a", path + "/b"
    os.mkdir(a), os.mkdir(b)
    first, second = (_engine.Store([d], 4 << 20, pinned_bytes=0) for d in (a, b))
    print("free:", first.devices()[0]["free_bytes"] == second.devices()[0]["free_bytes"])
    caches = first.create_caches(1, 2, 8192, 2, 64, "bf16", 16)
    try:
        second.create_caches(1, 2, 8192, 2, 64, "bf16", 16)
    except errors.StoreFullError as error:
        print("second:", error)
    try:
        second.put_weight(np.zeros(9 << 20, np.uint8))
    except errors.StoreFullError as error:
        print("weight:", error)
    x = second.create_caches(1, 1, 4096, 2, 64, "bf16", 16)
    try:
        second.x_cache(x[0], 32, 64)
    except errors.StoreFullError as error:
        print("companion:", error)
    version = first.fill_synthetic(caches[0], 8192)
    first.flush()
    print("filled:", first.lengths(caches[0]))
    second.create_caches(1, 1, 4096, 2, 64, "bf16", 16)
"""


def test_two_stores_on_one_file_system():
    """Each is told how much there is, and only one of them gets it: also for weights and X."""
    lines = told(TWO_STORES)
    assert lines["free"] == "True"
    assert "1 of the 2 rows fit" in lines["second"]
    assert "nspjax.weights has room for" in lines["weight"]
    assert "rows fit" in lines["companion"]
    assert lines["filled"] == "[8192, 8192]"


RACE = """
    import os, errno
    path = mount("tmpfs", "size=16m")
    store = _engine.Store([path], 4 << 20, pinned_bytes=0)
    before = os.stat(path + "/nspjax.kv")
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, 6 << 20))
    try:
        store.create_caches(1, 2, 8192, 2, 64, "bf16", 16)
    except errors.NspjaxError as error:
        print("refused:", error)
    after = os.stat(path + "/nspjax.kv")
    print("same:", (before.st_size, before.st_blocks) == (after.st_size, after.st_blocks))
    print("reserved:", store.devices()[0]["reserved_bytes"])
    print("then:", store.create_caches(1, 1, 8192, 2, 64, "bf16", 16))
"""


def test_a_reservation_that_fails_takes_nothing():
    """A limit on files stands for another process that is quicker."""
    lines = told(RACE)
    assert "reserving room of" in lines["refused"]
    assert lines["same"] == "True"
    assert lines["reserved"] == "0"
    assert lines["then"] == "[1]"
