#include "bindings/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "attention/kernel.h"
#include "attention/merge.h"
#include "base/align.h"
#include "base/read_memory.h"
#include "format/numbers.h"

namespace nspjax {
namespace {

// Runs work(thread) on all threads, repeats times; bytes of one pass over the least time, in GB/s:
// other processes only ever add to it.
double best_rate(int64_t bytes, int threads, int repeats, const std::function<void(int)>& work) {
  if (threads < 1 || repeats < 1) {
    fail(ErrorKind::kInvalidArgument, "threads and repeats must be at least 1");
  }
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    {
      std::vector<std::jthread> others;
      for (int thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
      work(0);
    }
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return static_cast<double>(bytes) / *std::min_element(seconds.begin(), seconds.end()) * 1e-9;
}

// bf16 values in float32, so that they are exact in bf16, as a bf16 model's queries are.
std::vector<float> random_values(size_t n) {
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& x : values) x = bf16_to_f32(f32_to_bf16(normal(random)));
  return values;
}

// A full tile of random values.
std::vector<std::byte> random_tile(const HeadTile& tile) {
  const HeadTile floats(DType::kF32, tile.head_dim(), tile.tile_tokens());
  const std::vector<float> values =
      random_values(static_cast<size_t>(2 * tile.head_dim() * tile.tile_tokens()));
  const auto* k = reinterpret_cast<const std::byte*>(values.data());
  std::vector<std::byte> packed(static_cast<size_t>(floats.bytes()));
  pack_head(floats, {k, k + tile.head_dim() * tile.tile_tokens() * 4, tile.head_dim() * 4}, 0,
            tile.tile_tokens(), packed.data());
  std::vector<std::byte> result(static_cast<size_t>(tile.bytes()));
  convert_head(floats, packed.data(), tile, result.data());
  return result;
}

// The attention of one thread: a query group for each KV head over all of its tiles.
class Walk {
 public:
  Walk(TileKernel kernel, const HeadTile& tile, int64_t n_heads, int64_t group)
      : kernel_(kernel),
        tile_(tile),
        n_heads_(n_heads),
        group_(group),
        padded_(round_up(tile.head_dim(), kPadFloats)),
        queries_(static_cast<size_t>(n_heads * group * padded_)),
        acc_(queries_.size()),
        max_(static_cast<size_t>(n_heads * group), kMinusInfinity),
        sum_(max_.size()),
        first_(max_.size(), 0),
        last_(max_.size(), 1 << 30) {
    const std::vector<float> values = random_values(queries_.size());
    for (int64_t i = 0; i < n_heads * group; ++i) {
      std::copy_n(values.data() + i * padded_, tile.head_dim(), queries_.data() + i * padded_);
    }
  }

  void run(const std::byte* tiles, int64_t n) {
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t head = 0; head < n_heads_; ++head, tiles += tile_.bytes()) {
        const int64_t query = head * group_;
        kernel_({.queries = queries_.data() + query * padded_,
                 .scale = 0.1f,
                 .n_queries = static_cast<int>(group_),
                 .head_dim = static_cast<int>(tile_.head_dim()),
                 .padded_dim = static_cast<int>(padded_),
                 .first = first_.data() + query,
                 .last = last_.data() + query,
                 .tile = &tile_,
                 .data = tiles,
                 .first_token = static_cast<int32_t>(t * tile_.tile_tokens()),
                 .begin = 0,
                 .end = static_cast<int>(tile_.tile_tokens()),
                 .softcap = 0.0f,
                 .max = max_.data() + query,
                 .sum = sum_.data() + query,
                 .acc = acc_.data() + query * padded_});
      }
    }
  }

 private:
  TileKernel kernel_;
  const HeadTile& tile_;
  int64_t n_heads_, group_, padded_;
  std::vector<float> queries_, acc_, max_, sum_;
  std::vector<int32_t> first_, last_;
};

}  // namespace

double measure_read_bandwidth(int64_t bytes, int threads, int repeats) {
  const int64_t share = round_down(bytes / std::max(1, threads), kPageBytes);
  const MappedRegion memory(share * threads);
  std::fill_n(memory.data(), memory.size_bytes(), std::byte{1});
  std::vector<uint64_t> sums(static_cast<size_t>(threads));
  const double rate = best_rate(share * threads, threads, repeats, [&](int thread) {
    sums[static_cast<size_t>(thread)] += sum_memory(memory.data() + thread * share, share);
  });
  for (const uint64_t sum : sums) {
    if (sum != sums[0]) fail(ErrorKind::kInvalidArgument, "the threads read different memory");
  }
  return rate;
}

double measure_kernel(const std::string& kernel, const std::string& kv_type, int64_t head_dim,
                      int64_t n_kv_heads, int64_t group, int64_t tile_tokens, int64_t bytes,
                      int threads, int repeats) {
  const HeadTile tile(parse_kv_dtype(kv_type), head_dim, tile_tokens);
  const int64_t tile_bytes = n_kv_heads * tile.bytes();
  const int64_t share = bytes / std::max(1, threads) / tile_bytes;
  if (share < 1) fail(ErrorKind::kInvalidArgument, "give each thread a tile of ", tile_bytes);
  const MappedRegion memory(share * threads * tile_bytes);
  const std::vector<std::byte> contents = random_tile(tile);
  for (int64_t i = 0; i < share * threads * n_kv_heads; ++i) {
    std::memcpy(memory.data() + i * tile.bytes(), contents.data(), contents.size());
  }
  std::vector<Walk> walks;
  for (int i = 0; i < threads; ++i) {
    walks.emplace_back(find_kernel(kernel).of(tile.type()).attend, tile, n_kv_heads, group);
  }
  return best_rate(share * threads * tile_bytes, threads, repeats, [&](int thread) {
    walks[static_cast<size_t>(thread)].run(memory.data() + thread * share * tile_bytes, share);
  });
}

double measure_pack(const std::string& kv_type, const std::string& to_type, int64_t head_dim,
                    int64_t n_kv_heads, int64_t tile_tokens, int64_t bytes, int repeats) {
  const HeadTile tile(parse_dtype(kv_type), head_dim, tile_tokens);
  const HeadTile to(parse_kv_dtype(to_type), head_dim, tile_tokens);
  const int64_t row_bytes = head_dim * element_bits(tile.type()) / 8;
  const int64_t token_bytes = n_kv_heads * row_bytes;
  const int64_t n_tiles = std::max<int64_t>(1, bytes / (2 * tile_tokens * token_bytes));
  const int64_t half = n_tiles * tile_tokens * token_bytes;
  const MappedRegion rows(2 * half), tiles(n_tiles * n_kv_heads * to.bytes());
  std::vector<std::byte> floats(static_cast<size_t>(tile.bytes()));
  // any pattern of ordinary numbers: 0x3c3c
  std::fill_n(rows.data(), rows.size_bytes(), std::byte{0x3c});
  std::fill_n(tiles.data(), tiles.size_bytes(), std::byte{0});
  return best_rate(2 * half, 1, repeats, [&](int) {
    for (int64_t t = 0; t < n_tiles; ++t) {
      for (int64_t head = 0; head < n_kv_heads; ++head) {
        const std::byte* k = rows.data() + t * tile_tokens * token_bytes + head * row_bytes;
        std::byte* into = tiles.data() + (t * n_kv_heads + head) * to.bytes();
        const bool same = to.type() == tile.type();
        pack_head(tile, {k, k + half, token_bytes}, 0, tile_tokens, same ? into : floats.data());
        if (!same) convert_head(tile, floats.data(), to, into);
      }
    }
  });
}

}  // namespace nspjax
