"""Write tests/models/goldens: tiny random checkpoints and what transformers answers.

    python tests/models/make_goldens.py [VARIANT ...]

Needs torch and transformers (the dependency group `oracle`).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from oracle import answers, save_checkpoint, smallest_margin
from variants import VARIANTS

GOLDENS = Path(__file__).parent / "goldens"
MARGIN = 0.01
"""Greedy choices closer than this would be decided by rounding: another seed is taken."""
DIFFERENT_TOKENS = 8
"""A model that answers with fewer shows too little: another seed is taken."""


def main(names: list[str]) -> None:
    for name in names:
        variant = VARIANTS[name]
        directory = GOLDENS / name
        for seed in range(100):
            shutil.rmtree(directory, ignore_errors=True)
            save_checkpoint(directory, variant, seed)
            golden = answers(directory, seed)
            margin = smallest_margin(golden)
            n_different = len(np.unique(golden["greedy"]))
            if margin > MARGIN and n_different >= DIFFERENT_TOKENS:
                break
        else:
            sys.exit(f"{name}: no seed gives a usable golden")
        np.savez_compressed(directory / "golden.npz", **golden)
        size = sum(path.stat().st_size for path in directory.iterdir())
        std = golden["decode_logits"].std()
        print(
            f"{name}: seed {seed}, margin {margin:.3f}, logits' std {std:.2f}, "
            f"{n_different} different tokens, {size / 1000:.0f} kB"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(VARIANTS))
