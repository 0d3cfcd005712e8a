// Tokens of several rows out of a cache, for attention elsewhere.
#include <algorithm>
#include <cstring>
#include <tuple>

#include "format/pack.h"
#include "store/store.h"
#include "store/tile_scan.h"

namespace nspjax {
namespace {

// Where batch row b's part of a chunk ends: at its length, or where the chunk does.
int64_t end_of(const FetchArgs& args, int64_t begin, size_t b) {
  return std::clamp<int64_t>(args.length[b], begin, begin + args.n_tokens);
}

}  // namespace

void Store::check_fetch(const Cache& cache, const FetchArgs& args) {
  if (args.begin < 0 || args.n_tokens < 1) {
    fail(ErrorKind::kInvalidArgument, "fetch of ", args.n_tokens, " tokens from token ", args.begin,
         " on: give at least one, from 0 on");
  }
  const int64_t batch = cache.geometry.shape().batch;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0) continue;
    const int64_t row = args.rows[b];
    const auto where = [&] { return concat("fetch of row ", row, " (batch row ", b, "): "); };
    if (row < 0 || row >= batch) {
      fail(ErrorKind::kInvalidArgument, where(), "the cache has rows 0 to ", batch - 1);
    }
    const int64_t stored = cache.rows[static_cast<size_t>(row)].length;
    if (args.length[b] < 0 || args.length[b] > stored) {
      fail(ErrorKind::kInvalidArgument, where(), "length is ", args.length[b], ", but the row has ",
           stored, " tokens");
    }
  }
}

// The full tiles that rows have of the chunk of tokens from `begin` on. What several rows share is
// there once.
Store::Chunk Store::chunk_of(const Cache& cache, const FetchArgs& args, int64_t begin) {
  const int64_t tile_tokens = cache.geometry.tile_tokens();
  Chunk chunk;
  std::map<std::tuple<const Region*, int64_t, int64_t>, size_t> known;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0 || args.rows[b] >= cache.geometry.shape().batch) continue;
    const Row& row = cache.rows[static_cast<size_t>(args.rows[b])];
    const int64_t end = std::min(end_of(args, begin, b), row.stored_tiles * tile_tokens);
    if (begin >= end) continue;
    for (const TileSpan& span : tile_spans(cache, row, begin, end)) {
      const auto [at, is_new] =
          known.try_emplace({span.region, span.begin, span.end}, chunk.spans.size());
      if (is_new) {
        chunk.spans.push_back(span);
        chunk.readers.emplace_back();
      }
      chunk.readers[at->second].push_back(b);
    }
  }
  return chunk;
}

// What the next fetches will probably read: the chunks after this one, which the lengths tell. Then
// what was announced, or else the first chunk of the cache that followed this one last time.
std::vector<std::vector<TileRange>> Store::next_fetch(Cache& cache, int32_t id,
                                                      const FetchArgs& args) {
  if (args.begin == 0) {
    if (const auto last = caches_.find(last_attended_); last != caches_.end()) {
      last->second.attended_next = id;
    }
    last_attended_ = id;
  }
  std::vector<std::vector<TileRange>> reads(devices_.size());
  const auto add_chunk = [&](const Cache& of, int64_t begin) {
    for (const TileSpan& span : chunk_of(of, args, begin).spans) {
      for (size_t d = 0; d < devices_.size(); ++d) {
        for (const TileRead& read :
             plan_reads(of.geometry, span, span.end, static_cast<int64_t>(d), budget_.slot_bytes)) {
          if (std::ssize(reads[d]) < budget_.slots) reads[d].push_back(read.range);
        }
      }
    }
  };
  const auto full = [&](const auto& of_device) { return std::ssize(of_device) >= budget_.slots; };
  const int64_t end = args.length.empty() ? 0 : *std::ranges::max_element(args.length);
  for (int64_t begin = args.begin + args.n_tokens; begin < end; begin += args.n_tokens) {
    if (std::ranges::all_of(reads, full)) break;
    add_chunk(cache, begin);
  }
  if (!args.read_ahead) {
    const auto announced = announced_.reads();
    for (size_t d = 0; d < devices_.size(); ++d) {
      reads[d].insert(reads[d].end(), announced[d].begin(), announced[d].end());
    }
  } else if (const auto next = caches_.find(cache.attended_next); next != caches_.end()) {
    add_chunk(next->second, 0);
  }
  return reads;
}

void Store::fetch(int32_t cache, int32_t version, const FetchArgs& args) {
  std::lock_guard lock(mutex_);
  const TraceScope scope(trace_, {.cache = cache, .kind = TraceKind::kFetch});
  Cache& found = find_current(cache, version);
  check_fetch(found, args);
  drain();
  announced_.take(cache, args.rows);
  found.fetched_tokens = args.n_tokens;
  const TileGeometry& geometry = found.geometry;
  const CacheShape& shape = geometry.shape();
  const int64_t row_bytes = args.n_tokens * shape.token_bytes() / 2;  // of k or v
  const auto into = [&](size_t b) {
    const int64_t at = static_cast<int64_t>(b) * row_bytes;
    return TokenRun<std::byte>{args.k + at, args.v + at, args.begin};
  };
  const Chunk chunk = chunk_of(found, args, args.begin);
  const auto next = next_fetch(found, cache, args);
  TaskGroup rest(*workers_);  // what needs no device
  for (size_t b = 0; b < args.rows.size(); ++b) {
    rest.run([&, b] {
      const int64_t end = end_of(args, args.begin, b);
      const auto [planes, first] = into(b);
      const int64_t filled = (end - first) * shape.token_bytes() / 2;
      for (std::byte* to : planes) std::fill(to + filled, to + row_bytes, std::byte{0});
      if (end > first) copy_tail(found, args.rows[b], first, end, into(b));
    });
  }
  on_all_devices([&](int64_t d) {
    const auto unpack = [&](size_t span, int64_t tile, const std::byte* data) {
      const int64_t from = tile * geometry.tile_tokens();
      for (const size_t b : chunk.readers[span]) {
        unpack_tile(geometry, geometry.heads(args.rows[b], d), data, std::max(args.begin, from),
                    std::min(end_of(args, args.begin, b), from + geometry.tile_tokens()), into(b));
      }
    };
    TileScan scan(
        geometry, chunk.spans, *devices_[static_cast<size_t>(d)], d,
        {.read_bytes = budget_.slot_bytes, .verify = checksums_ && verifies_, .crosses_link = true},
        *workers_, unpack);
    scan.run(next[static_cast<size_t>(d)]);
    fetched_bytes_ += scan.bytes_read();
  });
  rest.wait();
}

}  // namespace nspjax
