// Full tiles out of one store and into another, in runs of every size.
#include <cstring>
#include <random>

#include "check.h"
#include "store/store.h"

namespace nspjax::testing {
namespace {

constexpr CacheShape kShape = {.batch = 2,
                               .capacity_tokens = 200,
                               .n_kv_heads = 3,
                               .head_dim = 24,
                               .dtype = DType::kF32,
                               .stored = DType::kF32};
constexpr int64_t kTokens = 150, kTileTokens = 16, kTiles = kTokens / kTileTokens;

using Tokens = std::vector<float>;

StoreOptions options(const std::vector<std::string>& devices, int64_t pinned_bytes) {
  return {.devices = devices,
          .host_memory_bytes = 2 << 20,
          .threads = 2,
          .pinned_bytes = pinned_bytes,
          .fault = ""};
}

const std::byte* bytes(const Tokens& tokens) {
  return reinterpret_cast<const std::byte*>(tokens.data());
}

Tokens random_tokens(int seed) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::normal_distribution<float> normal;
  Tokens tokens(static_cast<size_t>(kTokens * kShape.n_kv_heads * kShape.head_dim));
  for (float& x : tokens) x = normal(random);
  return tokens;
}

int32_t append(Store& store, int32_t cache, int32_t version, const Tokens& tokens, int32_t row,
               int32_t begin, int32_t n) {
  const int64_t skipped = begin * kShape.n_kv_heads * kShape.vector_bytes();
  const std::vector<int32_t> rows = {row}, start = {begin}, n_new = {n};
  return store.append(cache, version,
                      {.k = bytes(tokens) + skipped,
                       .v = bytes(tokens) + skipped,
                       .n_tokens = n,
                       .rows = rows,
                       .start = start,
                       .n_new = n_new});
}

void check_tokens(Store& store, int32_t cache, int32_t row, const Tokens& tokens) {
  Tokens k(tokens.size()), v(tokens.size());
  store.read(cache, row, 0, kTokens, reinterpret_cast<std::byte*>(k.data()),
             reinterpret_cast<std::byte*>(v.data()));
  check(k == tokens && v == tokens, "the tokens are those that were exported");
}

void transfer(const std::vector<std::string>& from_devices,
              const std::vector<std::string>& to_devices, int64_t pinned_bytes) {
  Store from(options(from_devices, pinned_bytes)), to(options(to_devices, pinned_bytes));
  const int32_t source = from.create_caches(1, kShape, kTileTokens)[0];
  const int32_t target = to.create_caches(1, kShape, kTileTokens)[0];
  const TileLayout layout = from.tile_layout(source);
  check(layout.fingerprint == to.tile_layout(target).fingerprint, "one layout");
  const int64_t tile_bytes = kShape.n_kv_heads * layout.head_bytes;
  const Tokens tokens = random_tokens(1), others = random_tokens(2);
  const int32_t exported = append(from, source, 0, tokens, 1, 0, kTokens);
  int32_t version = append(to, target, 0, others, 0, 0, kTokens);
  for (int64_t step = 1; step <= kTiles; ++step) {
    for (int64_t begin = 0; begin < kTiles; begin += step) {
      const int64_t end = std::min(begin + step, kTiles);
      const auto tiles = from.export_tiles(source, exported, 1, begin, end);
      check(std::ssize(tiles) == (end - begin) * tile_bytes, "bytes of a run");
      to.import_tiles(target, version, 1, begin, std::as_bytes(std::span(tiles)));
    }
    constexpr int32_t kFull = kTiles * kTileTokens;
    version = append(to, target, version, tokens, 1, kFull, kTokens - kFull);
    check_tokens(to, target, 1, tokens);
    check_tokens(to, target, 0, others);
  }
}

// Truncated and then appended to is what an append from there on makes; nothing is checked late.
void test_truncate(const std::vector<std::string>& devices) {
  Store store(options(devices, 0));
  const int32_t cache = store.create_caches(1, kShape, kTileTokens)[0];
  const Tokens tokens = random_tokens(1);
  int32_t version = append(store, cache, 0, random_tokens(2), 0, 0, kTokens);
  version = append(store, cache, version, random_tokens(2), 1, 0, kTokens);
  const auto truncate = [&](std::vector<int32_t> rows, std::vector<int32_t> lengths) {
    return store.truncate(cache, version, rows, lengths);
  };
  for (const auto& [rows, lengths] : {std::pair(std::vector{0, 0}, std::vector{9, 9}),
                                      {{0, 2}, {9, 9}},
                                      {{0, 1}, {9, 151}},
                                      {{0, 1}, {9, -1}}}) {
    check_throws(ErrorKind::kInvalidArgument, [&] { truncate(rows, lengths); });
  }
  check(store.lengths(cache) == std::vector<int64_t>{kTokens, kTokens}, "nothing was changed");
  const int32_t before = version;
  version = truncate({1, 0}, {0, 37});  // inside a tile that was stored
  check_throws(ErrorKind::kStaleHandle, [&] {
    store.truncate(cache, before, std::vector<int32_t>{0}, std::vector<int32_t>{0});
  });
  check(store.lengths(cache) == std::vector<int64_t>{37, 0}, "cut");
  version = append(store, cache, version, tokens, 0, 37, kTokens - 37);
  version = append(store, cache, version, tokens, 0, 0, 37 + 20);
  version = append(store, cache, version, tokens, 0, 57, kTokens - 57);
  check_tokens(store, cache, 0, tokens);
}

void test_refusals() {
  Store store(options({"memory:"}, 0));
  const int32_t cache = store.create_caches(1, kShape, kTileTokens)[0];
  const int32_t version = append(store, cache, 0, random_tokens(1), 0, 0, kTokens);
  const int64_t tile_bytes = kShape.n_kv_heads * store.tile_layout(cache).head_bytes;
  const std::vector<std::byte> tiles(static_cast<size_t>(13 * tile_bytes));
  const auto refused = [&](int32_t of_version, int64_t row, int64_t begin, int64_t n_bytes,
                           ErrorKind kind) {
    check_throws(kind, [&] {
      store.import_tiles(cache, of_version, row, begin,
                         std::span(tiles).first(static_cast<size_t>(n_bytes)));
    });
  };
  refused(version - 1, 0, 0, tile_bytes, ErrorKind::kStaleHandle);
  refused(version, 2, 0, tile_bytes, ErrorKind::kInvalidArgument);
  refused(version, -1, 0, tile_bytes, ErrorKind::kInvalidArgument);
  refused(version, 0, 0, tile_bytes - 1, ErrorKind::kInvalidArgument);
  refused(version, 0, 0, 13 * tile_bytes, ErrorKind::kInvalidArgument);  // 208 tokens of 200
  refused(version, 0, -1, tile_bytes, ErrorKind::kInvalidArgument);
  refused(version, 0, 9, tile_bytes, ErrorKind::kInvalidArgument);  // 6 tokens are after tile 9
  refused(version, 1, 1, tile_bytes, ErrorKind::kInvalidArgument);
  const auto no_export = [&](int64_t row, int64_t begin, int64_t end) {
    check_throws(ErrorKind::kInvalidArgument,
                 [&] { store.export_tiles(cache, version, row, begin, end); });
  };
  no_export(0, 0, kTiles + 1);
  no_export(0, 2, 1);
  no_export(0, -1, 1);
  no_export(2, 0, 0);
  check(store.lengths(cache)[0] == kTokens, "nothing was changed");
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  const TemporaryDirectory a, b, c;
  for (const int64_t pinned_bytes : {0, 50'000, 1'000'000}) {
    transfer({"memory:"}, {a.path(), b.path()}, pinned_bytes);
    transfer({a.path(), b.path()}, {c.path()}, pinned_bytes);
    transfer({a.path(), "memory:", b.path()}, {"memory:", c.path()}, pinned_bytes);
  }
  for (const auto& devices : {std::vector<std::string>{"memory:"}, {a.path(), b.path()}}) {
    test_truncate(devices);
  }
  test_refusals();
}
