// Tokens of several rows out of a cache, for attention elsewhere.
#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "format/pack.h"
#include "store/cache_set.h"
#include "store/read_ahead.h"
#include "store/window.h"

namespace nspjax {
namespace {

// Tokens [begin, end).
struct Part {
  int64_t begin;
  int64_t end;
};

// The first token of batch row b that is asked for.
int64_t first_of(const FetchArgs& args, size_t b) {
  return args.window > 0 ? std::max<int64_t>(0, args.length[b] - args.window) : 0;
}

// Batch row b's part of the chunk of tokens from `begin` on.
Part part_of(const FetchArgs& args, int64_t begin, size_t b) {
  const int64_t end = std::clamp<int64_t>(args.length[b], begin, begin + args.n_tokens);
  return {std::clamp(first_of(args, b), begin, end), end};
}

// Where the first chunk begins that anybody asks for.
int64_t first_chunk(const FetchArgs& args) {
  int64_t first = std::numeric_limits<int64_t>::max();
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] > 0) first = std::min(first, first_of(args, b));
  }
  return round_down(first, args.n_tokens);
}

void check_fetch(const Cache& cache, const FetchArgs& args) {
  if (args.begin < 0 || args.n_tokens < 1) {
    fail(ErrorKind::kInvalidArgument, "fetch of ", args.n_tokens, " tokens from token ", args.begin,
         " on: give at least one, from 0 on");
  }
  const CacheShape& shape = cache.geometry().shape();
  check_window("fetch", shape, args.window);
  const int64_t batch = shape.batch;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0) continue;
    const int64_t row = args.rows[b];
    const auto where = [&] { return concat("fetch of row ", row, " (batch row ", b, "): "); };
    if (row < 0 || row >= batch) {
      fail(ErrorKind::kInvalidArgument, where(), "the cache has rows 0 to ", batch - 1);
    }
    const int64_t stored = cache.row(row).length;
    if (args.length[b] < 0 || args.length[b] > stored) {
      fail(ErrorKind::kInvalidArgument, where(), "length is ", args.length[b], ", but the row has ",
           stored, " tokens");
    }
    check_kept("fetch of", cache, row, first_of(args, b));
  }
}

// Full tiles of several rows, and for each run of them the batch rows that want it.
struct Chunk {
  std::vector<TileSpan> spans;
  std::vector<std::vector<size_t>> readers;  // [span]
};

// The full tiles that rows have of the chunk of tokens from `begin` on. What several rows share is
// there once.
Chunk chunk_of(const Cache& cache, const FetchArgs& args, int64_t begin) {
  const int64_t tile_tokens = cache.geometry().tile_tokens();
  Chunk chunk;
  std::map<std::tuple<const Region*, int64_t, int64_t>, size_t> known;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0 || args.rows[b] >= cache.geometry().shape().batch) continue;
    const Row& row = cache.row(args.rows[b]);
    const Part part = part_of(args, begin, b);
    const int64_t first = std::max(part.begin, row.begin);
    const int64_t end = std::min(part.end, row.stored_tiles * tile_tokens);
    if (first >= end) continue;
    for (const TileSpan& span : row.spans(tile_tokens, first, end)) {
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

}  // namespace

// What the next fetches will probably read: the chunks after this one, which the lengths tell. Then
// what was announced, or else the first chunk of the cache that followed this one last time.
DeviceReads CacheSet::next_fetch(Cache& cache, const FetchArgs& args) {
  const int64_t first = first_chunk(args);
  if (args.begin == first) note_attended(cache);
  ReadList list(lane_, lane_.memory().slots);
  const auto add_chunk = [&](const Cache& of, int64_t begin) {
    for (const TileSpan& span : chunk_of(of, args, begin).spans) {
      if (list.full()) break;
      list.add(of.geometry(), span, span.end);
    }
  };
  const int64_t end = args.length.empty() ? 0 : *std::ranges::max_element(args.length);
  for (int64_t begin = args.begin + args.n_tokens; begin < end; begin += args.n_tokens) {
    if (list.full()) break;
    add_chunk(cache, begin);
  }
  if (args.read_ahead) {
    const auto next = caches_.find(cache.attended_next);
    if (next != caches_.end()) add_chunk(next->second, first);
    return list.take();
  }
  DeviceReads reads = list.take();
  const DeviceReads announced = lane_.announced().reads();
  for (size_t d = 0; d < reads.size(); ++d) {
    reads[d].insert(reads[d].end(), announced[d].begin(), announced[d].end());
  }
  return reads;
}

void CacheSet::fetch(int32_t cache, int32_t version, const ArgsFor<FetchArgs>& args_for) {
  const Lock lock(lane_.mutex);
  const TraceScope scope(lane_.trace(), {.cache = cache, .kind = TraceKind::kFetch});
  Cache& found = find_current(cache, version);
  const FetchArgs args = args_for(found.geometry().shape());
  check_fetch(found, args);
  drain();
  lane_.announced().take(cache, args.rows);
  found.fetched_tokens = args.n_tokens;
  const TileGeometry& geometry = found.geometry();
  const CacheShape& shape = geometry.shape();
  const int64_t row_bytes = args.n_tokens * shape.token_bytes() / 2;  // of k or v
  const auto into = [&](size_t b) {
    const int64_t at = static_cast<int64_t>(b) * row_bytes;
    return TokenRun<std::byte>{{args.k + at, args.v + at}, args.begin};
  };
  const Chunk chunk = chunk_of(found, args, args.begin);
  const auto next = next_fetch(found, args);
  TaskGroup rest(lane_.workers());  // what needs no device
  for (size_t b = 0; b < args.rows.size(); ++b) {
    rest.run([&, b] {
      const Part part = part_of(args, args.begin, b);
      const auto bytes = [&](int64_t token) {
        return (token - args.begin) * shape.token_bytes() / 2;
      };
      for (std::byte* to : into(b).plane) {
        std::fill(to, to + bytes(part.begin), std::byte{0});
        std::fill(to + bytes(part.end), to + row_bytes, std::byte{0});
      }
      if (part.end > part.begin) {
        found.row(args.rows[b]).copy_tail(geometry, args.rows[b], part.begin, part.end, into(b));
      }
    });
  }
  const auto unpack = [&](int64_t d, size_t span, int64_t tile, const std::byte* data) {
    const int64_t from = tile * geometry.tile_tokens();
    for (const size_t b : chunk.readers[span]) {
      const Part part = part_of(args, args.begin, b);
      unpack_tile(geometry, geometry.heads(args.rows[b], d), data, std::max(part.begin, from),
                  std::min(part.end, from + geometry.tile_tokens()), into(b));
    }
  };
  lane_.read_tiles(geometry, {.spans = chunk.spans,
                              .next = next,
                              .verify = lane_.verifies(),
                              .crosses_link = true,
                              .visit = unpack});
  rest.wait();
}

}  // namespace nspjax
