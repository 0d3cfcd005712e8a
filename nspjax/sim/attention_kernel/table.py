"""The kernel of this project beside the accelerator of HILOS (arXiv 2502.09921), in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from nspjax.dtypes import BY_NAME
from nspjax.sim.attention_kernel.cycles import Run, simulate
from nspjax.sim.attention_kernel.resources import Device, resources
from nspjax.sim.attention_kernel.structure import Memory, Structure

# Of the paper: GFLOPS by group, at 296 MHz, heads of 128 channels in FP16. K/V consumption follows:
# a FLOP a byte for each query of the group.
PAPER_GFLOP_PER_S = {1: 11.9, 4: 46.8, 5: 56.3}
PAPER_DSP_SHARE = {5: 0.278}
N_TOKENS = 32_768


def speed_table() -> str:
    rows = []
    for group, paper in PAPER_GFLOP_PER_S.items():
        structure, run = Structure(group=group), Run(N_TOKENS, n_queries=group)
        ours = simulate(run, structure)
        drawn = dataclasses.replace(Memory(), peak_bytes_per_s=paper / group * 1e9, efficiency=1.0)
        same_memory = simulate(run, structure, memory=drawn)
        rows.append(
            (
                str(group), f"{paper:.1f}", f"{paper / group:.2f}",
                f"{ours.gflop_per_s:.1f} ({ours.gflop_per_s / paper - 1:+.0%})",
                f"{ours.kv_bytes_per_s / 1e9:.2f}", ours.bottleneck,
                f"{same_memory.gflop_per_s:.1f} ({same_memory.gflop_per_s / paper - 1:+.1%})",
            )
        )  # fmt: skip
    head = (
        "group", "paper: GFLOP/s", "K/V GB/s", "model: GFLOP/s (to paper)", "K/V GB/s",
        "slowest stage", "GFLOP/s with the paper's K/V GB/s",
    )  # fmt: skip
    return markdown(head, rows)


def stage_table() -> str:
    rows = []
    for kv_type in BY_NAME:
        for head_dim in (64, 128):
            cycles = simulate(Run(N_TOKENS, head_dim=head_dim, kv_type=kv_type))
            share = (f"{count / cycles.total:.2f}" for count in cycles.stages.values())
            rows.append(
                (
                    kv_type, str(head_dim), *share, f"{cycles.kv_bytes_per_s / 1e9:.1f}",
                    f"{cycles.gflop_per_s:.1f}", f"{N_TOKENS / cycles.seconds / 1e6:.0f}",
                )
            )  # fmt: skip
    head = (
        "stored", "head_dim", "read", "keys", "mask", "exponentials", "values", "K/V GB/s",
        "GFLOP/s", "M tokens/s of a KV head",
    )  # fmt: skip
    return markdown(head, rows)


def resource_table() -> str:
    device, rows = Device(), []
    for group in (1, 2, 4, 5, 8):
        used = resources(Structure(group=group))
        paper = PAPER_DSP_SHARE.get(group)
        rows.append(
            (
                str(group), str(used.macs_per_cycle),
                f"{used.dsps} ({used.dsps / device.dsps:.1%})",
                "" if paper is None else f"{paper:.1%}",
                f"{used.dsps / device.user_dsps:.0%}",
                f"{used.luts} ({used.luts / device.luts:.1%})",
                f"{used.brams} ({used.brams / device.brams:.1%})",
                f"{used.urams} ({used.urams / device.urams:.1%})",
            )
        )  # fmt: skip
    head = (
        "group", "MACs a cycle", "DSP (of the KU15P)", "paper: DSP", "DSP of the user's region",
        "LUT, operators only", "BRAM36", "URAM",
    )  # fmt: skip
    return markdown(head, rows)


def report() -> str:
    return "\n\n".join((speed_table(), stage_table(), resource_table()))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
