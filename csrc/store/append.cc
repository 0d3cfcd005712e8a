// Appending tokens to rows, and reading them back.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>

#include "base/scoped_timer.h"
#include "store/store.h"

namespace nspjax {
namespace {

// Tokens that stand one after another in an array [tokens, n_kv_heads, head_dim].
struct TokenRun {
  const std::byte* k;
  const std::byte* v;
  int64_t first;  // the position of the first in its row
  int64_t count;
};

// Copies the tokens of `run` at the positions [begin, end), all of one tile, into that tile.
void pack(const TileGeometry& geometry, HeadSet heads, const TokenRun& run, int64_t begin,
          int64_t end, std::byte* tile) {
  const auto vector = static_cast<size_t>(geometry.shape().vector_bytes());
  const int64_t token_stride = geometry.shape().token_bytes() / 2;
  for (int64_t i = 0; i < heads.count; ++i) {
    const int64_t head = heads.head(i) * geometry.shape().vector_bytes();
    for (int64_t token = begin; token < end; ++token) {
      const int64_t from = (token - run.first) * token_stride + head;
      const int64_t to = token % geometry.tile_tokens();
      std::memcpy(tile + geometry.k_offset(i, to), run.k + from, vector);
      std::memcpy(tile + geometry.v_offset(i, to), run.v + from, vector);
    }
  }
}

// The reverse: k, v are [tokens, n_kv_heads, head_dim], their first token at position `first`.
void unpack(const TileGeometry& geometry, HeadSet heads, const std::byte* tile, int64_t begin,
            int64_t end, int64_t first, std::byte* k, std::byte* v) {
  const auto vector = static_cast<size_t>(geometry.shape().vector_bytes());
  const int64_t token_stride = geometry.shape().token_bytes() / 2;
  for (int64_t i = 0; i < heads.count; ++i) {
    const int64_t head = heads.head(i) * geometry.shape().vector_bytes();
    for (int64_t token = begin; token < end; ++token) {
      const int64_t to = (token - first) * token_stride + head;
      const int64_t from = token % geometry.tile_tokens();
      std::memcpy(k + to, tile + geometry.k_offset(i, from), vector);
      std::memcpy(v + to, tile + geometry.v_offset(i, from), vector);
    }
  }
}

// Copies the first n tokens of a tile.
void copy_tokens(const TileGeometry& geometry, HeadSet heads, const std::byte* from, int64_t n,
                 std::byte* to) {
  const auto bytes = static_cast<size_t>(n * geometry.shape().vector_bytes());
  for (int64_t i = 0; i < heads.count; ++i) {
    std::memcpy(to + geometry.k_offset(i, 0), from + geometry.k_offset(i, 0), bytes);
    std::memcpy(to + geometry.v_offset(i, 0), from + geometry.v_offset(i, 0), bytes);
  }
}

// Calls fn(index, data) for each range.
class Visit final : public ScanVisitor {
 public:
  explicit Visit(std::function<void(size_t, const std::byte*)> fn) : fn_(std::move(fn)) {}
  void ready(size_t index, std::shared_ptr<const std::byte> data) override {
    fn_(index, data.get());
  }

 private:
  std::function<void(size_t, const std::byte*)> fn_;
};

}  // namespace

// ---- append
// ---------------------------------------------------------------------------------------

int32_t Store::append(int32_t cache, int32_t version, const AppendArgs& args) {
  std::lock_guard lock(mutex_);
  const ScopedTimer timer(append_ns_);
  Cache& found = find_current(cache, version);
  check_append(found, args);
  return append_unlocked(found, args);
}

void Store::check_append(const Cache& cache, const AppendArgs& args) {
  const CacheShape& shape = cache.geometry.shape();
  std::set<int32_t> seen;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    const int64_t row = args.rows[b], start = args.start[b], n_new = args.n_new[b];
    const auto where = [&] { return concat("append to row ", row, " (batch row ", b, "): "); };
    if (n_new < 0 || n_new > args.n_tokens) {
      fail(ErrorKind::kInvalidArgument, where(), "n_new is ", n_new, ", with ", args.n_tokens,
           " tokens given");
    }
    if (n_new == 0) continue;
    if (row < 0 || row >= shape.batch) {
      fail(ErrorKind::kInvalidArgument, where(), "the cache has rows 0 to ", shape.batch - 1);
    }
    if (!seen.insert(args.rows[b]).second) {
      fail(ErrorKind::kInvalidArgument, where(), "the row is given twice in one call");
    }
    const int64_t length = cache.rows[static_cast<size_t>(row)].length;
    if (start < 0 || start > length) {
      fail(ErrorKind::kInvalidArgument, where(), "start is ", start, ", but the row has ", length,
           " tokens");
    }
    if (start + n_new > shape.capacity_tokens) {
      fail(ErrorKind::kInvalidArgument, where(), start, " + ", n_new,
           " tokens do not fit its capacity of ", shape.capacity_tokens);
    }
  }
}

int32_t Store::append_unlocked(Cache& cache, const AppendArgs& args) {
  const TileGeometry& geometry = cache.geometry;
  const int64_t tile_tokens = geometry.tile_tokens();
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    cut_back(cache, args.rows[b], args.start[b]);
    if ((args.start[b] + args.n_new[b]) % tile_tokens != 0) allocate_tail(cache, args.rows[b]);
  }
  write_full_tiles(cache, args);

  // from here on nothing fails
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const int64_t row = args.rows[b], begin = args.start[b], end = begin + args.n_new[b];
    const int64_t bytes_before =
        static_cast<int64_t>(b) * args.n_tokens * geometry.shape().token_bytes() / 2;
    const TokenRun run{args.k + bytes_before, args.v + bytes_before, begin, args.n_new[b]};
    const int64_t tail_begin = std::max(begin, round_down(end, tile_tokens));
    if (tail_begin < end) {
      std::byte* tail = cache.rows[static_cast<size_t>(row)].tail.data();
      for (int64_t d = 0; d < geometry.n_devices(); ++d) {
        pack(geometry, geometry.heads(row, d), run, tail_begin, end,
             tail + geometry.tail_offset(row, d));
      }
    }
    set_length(cache, row, end);
    bytes_appended_ += run.count * geometry.shape().token_bytes();
  }
  return ++cache.version;
}

// Writes the tiles that the call fills. Tails are only read: until all is written, the rows are as
// they were.
void Store::write_full_tiles(Cache& cache, const AppendArgs& args) {
  const TileGeometry& geometry = cache.geometry;
  const int64_t tile_tokens = geometry.tile_tokens();
  std::vector<std::vector<TileWrite>> writes(devices_.size());
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const int64_t row = args.rows[b], begin = args.start[b], end = begin + args.n_new[b];
    const int64_t bytes_before =
        static_cast<int64_t>(b) * args.n_tokens * geometry.shape().token_bytes() / 2;
    const TokenRun run{args.k + bytes_before, args.v + bytes_before, begin, args.n_new[b]};
    const std::byte* tail = cache.rows[static_cast<size_t>(row)].tail.data();
    const int64_t last_tile = end / tile_tokens;
    for (int64_t d = 0; d < geometry.n_devices(); ++d) {
      const HeadSet heads = geometry.heads(row, d);
      if (heads.count == 0) continue;
      const int64_t tile_bytes = geometry.tile_bytes(row, d);
      const int64_t extent_offset = cache.extents[static_cast<size_t>(d)].offset;
      const int64_t tail_offset = geometry.tail_offset(row, d);
      for (int64_t tile = begin / tile_tokens; tile < last_tile;) {
        const int64_t stop = std::min(tile + geometry.segment_tiles(), last_tile);
        const auto pack_tiles = [&geometry, heads, run, tail, tail_offset, tile, stop, tile_tokens,
                                 tile_bytes](std::byte* into) {
          for (int64_t t = tile; t < stop; ++t, into += tile_bytes) {
            const int64_t from = t * tile_tokens;
            if (from < run.first) {
              copy_tokens(geometry, heads, tail + tail_offset, run.first - from, into);
            }
            pack(geometry, heads, run, std::max(from, run.first), from + tile_tokens, into);
            const int64_t used = heads.count * geometry.head_bytes();
            std::fill(into + used, into + tile_bytes, std::byte{0});
          }
        };
        writes[static_cast<size_t>(d)].push_back(
            {{extent_offset + geometry.tile_offset(row, d, tile), (stop - tile) * tile_bytes},
             pack_tiles});
        tile = stop;
      }
    }
  }
  on_all_devices([&](int64_t d) {
    const auto device = static_cast<size_t>(d);
    if (!writes[device].empty()) devices_[device]->write(writes[device]);
  });
}

// Shortens a row; the tile that is then its last, if it was spilled, is read back into the tail.
void Store::cut_back(Cache& cache, int64_t row, int64_t length) {
  const int64_t tile_tokens = cache.geometry.tile_tokens();
  Row& state = cache.rows[static_cast<size_t>(row)];
  if (length == state.length) return;
  const int64_t tile = length / tile_tokens;
  if (length % tile_tokens != 0 && tile < state.length / tile_tokens) {
    AlignedBuffer read_back(cache.geometry.tail_bytes(row));
    read_tile(cache, row, tile, read_back.data());
    tail_bytes_ += read_back.size_bytes() - state.tail.size_bytes();
    state.tail = std::move(read_back);
  }
  set_length(cache, row, length);
}

void Store::allocate_tail(Cache& cache, int64_t row) {
  Row& state = cache.rows[static_cast<size_t>(row)];
  if (state.tail) return;
  state.tail = AlignedBuffer(cache.geometry.tail_bytes(row));
  tail_bytes_ += state.tail.size_bytes();
}

void Store::set_length(Cache& cache, int64_t row, int64_t length) {
  int64_t& current = cache.rows[static_cast<size_t>(row)].length;
  kv_bytes_stored_ += (length - current) * cache.geometry.shape().token_bytes();
  current = length;
}

// ---- read
// -----------------------------------------------------------------------------------------

void Store::read_tile(const Cache& cache, int64_t row, int64_t tile, std::byte* into) {
  const TileGeometry& geometry = cache.geometry;
  on_all_devices([&](int64_t d) {
    const auto device = static_cast<size_t>(d);
    const TileRange range{cache.extents[device].offset + geometry.tile_offset(row, d, tile),
                          geometry.tile_bytes(row, d)};
    if (range.bytes == 0) return;
    std::byte* to = into + geometry.tail_offset(row, d);
    Visit copy([&](size_t, const std::byte* data) {
      std::memcpy(to, data, static_cast<size_t>(range.bytes));
    });
    devices_[device]->scan({&range, 1}, copy);
  });
}

void Store::read(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k,
                 std::byte* v) {
  std::lock_guard lock(mutex_);
  const Cache& found = find(cache);
  const TileGeometry& geometry = found.geometry;
  if (row < 0 || row >= geometry.shape().batch) {
    fail(ErrorKind::kInvalidArgument, "read of row ", row, ": the cache has rows 0 to ",
         geometry.shape().batch - 1);
  }
  const Row& state = found.rows[static_cast<size_t>(row)];
  if (begin < 0 || begin > end || end > state.length) {
    fail(ErrorKind::kInvalidArgument, "read of tokens ", begin, " to ", end, " of row ", row,
         ", which has ", state.length);
  }
  const int64_t tile_tokens = geometry.tile_tokens();
  const int64_t stored_end = std::min(end, round_down(state.length, tile_tokens));
  on_all_devices([&](int64_t d) {
    const HeadSet heads = geometry.heads(row, d);
    if (heads.count == 0) return;
    const auto device = static_cast<size_t>(d);
    const int64_t first_tile = begin / tile_tokens, tile_bytes = geometry.tile_bytes(row, d);
    std::vector<TileRange> ranges;
    for (int64_t tile = first_tile; tile * tile_tokens < stored_end; ++tile) {
      ranges.push_back(
          {found.extents[device].offset + geometry.tile_offset(row, d, tile), tile_bytes});
    }
    Visit visit([&](size_t i, const std::byte* tile) {
      const int64_t from = (first_tile + static_cast<int64_t>(i)) * tile_tokens;
      unpack(geometry, heads, tile, std::max(begin, from), std::min(stored_end, from + tile_tokens),
             begin, k, v);
    });
    devices_[device]->scan(ranges, visit);
    if (stored_end < end) {
      unpack(geometry, heads, state.tail.data() + geometry.tail_offset(row, d),
             std::max(begin, round_down(state.length, tile_tokens)), end, begin, k, v);
    }
  });
}

// ---- synthetic contents
// -----------------------------------------------------------------------------

int32_t Store::fill_synthetic(int32_t cache, int64_t n_tokens) {
  std::lock_guard lock(mutex_);
  Cache& found = find(cache);
  const CacheShape& shape = found.geometry.shape();
  if (n_tokens < 0 || n_tokens > shape.capacity_tokens) {
    fail(ErrorKind::kInvalidArgument, "fill_synthetic with ", n_tokens, " tokens: the capacity is ",
         shape.capacity_tokens);
  }
  // One chunk of values in about [-1, 1), given to every row from another token on.
  constexpr int64_t kChunkTokens = 1024;
  const int64_t n_values = 2 * kChunkTokens * shape.n_kv_heads * shape.head_dim;
  std::vector<std::byte> values(static_cast<size_t>(n_values * size_bytes(shape.dtype)));
  uint64_t random = 0x9e3779b97f4a7c15u;
  for (int64_t i = 0; i < n_values; ++i) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const float value = static_cast<float>(static_cast<int32_t>(random >> 32)) * 0x1p-31f;
    const auto bits = std::bit_cast<uint32_t>(value);
    if (shape.dtype == DType::kF32) {
      std::memcpy(values.data() + 4 * i, &bits, 4);
      continue;
    }
    // f16: sign, an exponent between 2^-8 and 2^-1, random mantissa
    const auto f16 = static_cast<uint16_t>((random >> 48 & 0x9fffu) | 0x2000u);
    const auto bf16 = static_cast<uint16_t>(bits >> 16);
    const uint16_t half = shape.dtype == DType::kBF16 ? bf16 : f16;
    std::memcpy(values.data() + 2 * i, &half, 2);
  }
  const int32_t version = found.version + 1;
  for (int64_t row = 0; row < shape.batch; ++row) {
    cut_back(found, row, 0);
    const auto skip = (row % kChunkTokens) * shape.token_bytes() / 2;
    for (int64_t begin = 0; begin < n_tokens; begin += kChunkTokens) {
      const auto row32 = static_cast<int32_t>(row), start = static_cast<int32_t>(begin);
      const auto n_new = static_cast<int32_t>(std::min(kChunkTokens, n_tokens - begin));
      const std::byte* k = values.data() + skip;
      const AppendArgs args{k,
                            k + kChunkTokens * shape.token_bytes() / 2 - skip,
                            kChunkTokens,
                            {&row32, 1},
                            {&start, 1},
                            {&n_new, 1}};
      append_unlocked(found, args);
    }
  }
  return found.version = version;
}

}  // namespace nspjax
