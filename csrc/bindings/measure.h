// Measurements of memory and kernels without the rest of the engine: bench/kernel.py.
#pragma once

#include <cstdint>
#include <string>

namespace nspjax {

// Bytes that are read from memory, in GB/s: each of `threads` sums its share of `bytes`. The best
// of `repeats` passes.
double measure_read_bandwidth(int64_t bytes, int threads, int repeats);

// Bytes of KV that a kernel gets through, in GB/s: each of `threads` walks its share of tiles of
// `bytes` in all, as a scan does, tile after tile and head after head. The best of `repeats`.
double measure_kernel(const std::string& kernel, const std::string& kv_type, int64_t head_dim,
                      int64_t n_kv_heads, int64_t group, int64_t tile_tokens, int64_t bytes,
                      int threads, int repeats);

// Bytes of bf16 etc. rows that pack_head takes, in GB/s on one thread: rows of `bytes` of K and V
// together, head after head, into as many bytes of tiles; with to_type another than `kv_type` also
// converted to that.
double measure_pack(const std::string& kv_type, const std::string& to_type, int64_t head_dim,
                    int64_t n_kv_heads, int64_t tile_tokens, int64_t bytes, int repeats);

}  // namespace nspjax
