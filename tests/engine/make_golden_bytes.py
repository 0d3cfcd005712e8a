"""Write tests/engine/golden_bytes: saved prefixes, a store's file, and digests of tiles.

    python tests/engine/make_golden_bytes.py

Only where a format is raised: users have such files.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from golden_cases import (
    DIGESTS,
    GOLDEN_BYTES,
    LARGE,
    MODEL,
    SMALL,
    STORE_FILE,
    STORE_FILE_TYPES,
    TYPES,
    file_bytes,
    filled,
    prefix_path,
    tile_digests,
)
from prefix_cases import opened


def main(work: Path) -> None:
    shutil.rmtree(GOLDEN_BYTES, ignore_errors=True)
    GOLDEN_BYTES.mkdir()
    digests = {}
    for types in TYPES:
        with opened(work, 1) as store:
            store.save_prefix(prefix_path(*types), filled(store, SMALL, *types), 0, model=MODEL)
            if types == STORE_FILE_TYPES:
                STORE_FILE.write_bytes(file_bytes(store)[0])
        for name, shape in LARGE.items():
            for n_devices in (1, 3):
                with opened(work, n_devices, host_memory="64MiB") as store:
                    filled(store, shape, *types)
                    key = f"{name} {'-as-'.join(types)} on {n_devices}"
                    digests[key] = tile_digests(file_bytes(store), shape, types[1])
    DIGESTS.write_text(json.dumps(digests, indent=1) + "\n")
    print(f"{sum(path.stat().st_size for path in GOLDEN_BYTES.iterdir()) / 1000:.0f} kB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        main(Path(work))
