"""Pipelines that have names: what can be written wherever a pipeline is expected."""

from __future__ import annotations

PRESETS = {
    "baseline": "offload-kv,haul-kv,delay-writeback{interval=1},prefetch,host-dot,lower-to-ffi",
    "ans": "offload-kv,split-attention,delay-writeback{interval=1},prefetch,host-dot,lower-to-ffi",
    "ans+writeback": "offload-kv,split-attention,delay-writeback,prefetch,host-dot,lower-to-ffi",
    "hilos": "offload-kv,x-cache,split-attention,delay-writeback,prefetch,host-dot,lower-to-ffi",
    "auto": (
        "offload-kv,x-cache,split-attention,auto-interleave,delay-writeback,prefetch,host-dot,"
        "lower-to-ffi"
    ),
}
"""`baseline`: the KV cache is brought to the compute device, FlexGen's way. `ans`: near-storage
attention, every token written when it comes. `ans+writeback`: and tokens written in groups.
`hilos`: and X kept instead of K and V for part of the rows: all of HILOS (arXiv 2502.09921).
`auto`: what measured rates say pays."""
