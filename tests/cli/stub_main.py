"""`python -m nspjax` with the stub engine; NSPJAX_STUB_SECONDS is the time of one answer."""

import functools
import os

import stub_engine

import nspjax.cli.run_batch

if __name__ == "__main__":
    engine = stub_engine.StubEngine(seconds=float(os.environ.get("NSPJAX_STUB_SECONDS", "0")))
    nspjax.cli.run_batch.load_engine = functools.partial(stub_engine.loaded, engine)
    nspjax.cli.main()
