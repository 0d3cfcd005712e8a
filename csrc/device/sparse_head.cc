#include "device/sparse_head.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <span>

#include "attention/merge.h"

namespace nspjax {
namespace {

int64_t block_tokens(const HeadTile& stored, int64_t asked) {
  if (asked > 0) return asked;
  const int64_t token_bits = stored.head_dim() * element_bits(stored.type());
  const auto of_page = static_cast<uint64_t>(std::max<int64_t>(1, 8 * kPageBytes / token_bits));
  return std::clamp(static_cast<int64_t>(std::bit_floor(of_page)), kLeastQuantisedTileTokens,
                    stored.tile_tokens());
}

constexpr auto kOnes = [] {
  std::array<float, kBlockTokens> ones{};
  ones.fill(1.0f);
  return ones;
}();

}  // namespace

void SparseTally::add(int64_t tokens, int64_t tokens_read, double left_out) {
  const auto ppb = static_cast<int64_t>(std::llround(left_out * 1e9));
  n_heads += 1;
  n_tokens += tokens;
  n_tokens_read += tokens_read;
  left_out_ppb += ppb;
  for (int64_t most = most_left_out_ppb; ppb > most;) {
    if (most_left_out_ppb.compare_exchange_weak(most, ppb)) break;
  }
}

ValueBlocks::ValueBlocks(const HeadTile& stored, int64_t asked)
    : n_tokens(block_tokens(stored, asked)),
      bytes(n_tokens * stored.head_dim() * element_bits(stored.type()) / 8) {}

SparseHead::SparseHead(const AttendCall& call, const QueryUnit& unit, std::span<const Part> parts,
                       int64_t device_index, int64_t place)
    : call_(call),
      unit_(unit),
      device_index_(device_index),
      place_(place),
      head_(call.geometry.heads(unit.row, device_index).head(place)),
      blocks_(call.geometry.stored(), call.sparsity.block_tokens) {
  for (const Part& part : parts) {
    const AttendPass& pass = *part.pass;
    for (int64_t tile = pass.tiles.begin; tile < pass.tiles.end; ++tile) {
      tiles_.push_back({&pass, part.first_query, tile < pass.stored_tiles});
    }
  }
  stride_ = std::ssize(tiles_) * call.geometry.tile_tokens();
}

const std::byte* SparseHead::sketch(int64_t tile) const {
  return sketch_of(call_.geometry, *tiles_[static_cast<size_t>(tile)].pass->tiles.region, tile,
                   head_);
}

const std::byte* SparseHead::tail(int64_t tile) const {
  const AttendPass& pass = *tiles_[static_cast<size_t>(tile)].pass;
  return pass.tail[static_cast<size_t>(tile - pass.stored_tiles)] +
         call_.geometry.tail_offset(pass.tiles.region->row, device_index_) +
         place_ * call_.geometry.tail().bytes();
}

int64_t SparseHead::visible_tokens(int64_t tile) const {
  const int64_t tile_tokens = call_.geometry.tile_tokens();
  return std::min(tile_tokens, unit_.token_end - tile * tile_tokens);
}

void SparseHead::score() {
  const TraceScope scope(call_.trace, {.device = static_cast<int32_t>(device_index_),
                                       .cache = call_.cache,
                                       .row = static_cast<int32_t>(unit_.row),
                                       .kind = TraceKind::kCompute});
  const auto group = static_cast<size_t>(call_.group);
  weights_.assign(group * static_cast<size_t>(stride_), 0.0f);
  max_.assign(group, kMinusInfinity);
  sum_.assign(group, 0.0f);
  acc_.assign(group * static_cast<size_t>(call_.padded_dim), 0.0f);
  read_sum_.assign(static_cast<size_t>(call_.padded_dim), 0.0f);
  normalise(weigh());
  choose();
}

std::vector<SparseHead::Stretch> SparseHead::weigh() {
  const auto group = static_cast<size_t>(call_.group);
  const int64_t tile_tokens = call_.geometry.tile_tokens();
  std::vector<Stretch> stretches;
  for (int64_t t = 0; t < std::ssize(tiles_); ++t) {
    const Tile& tile = tiles_[static_cast<size_t>(t)];
    const HeadTile& keys = tile.is_stored ? call_.geometry.sketch()->keys() : call_.geometry.tail();
    const std::byte* data = tile.is_stored ? sketch(t) : tail(t);
    const int64_t n = visible_tokens(t);
    for (int64_t begin = 0; begin < n; begin += kBlockTokens) {
      Stretch& stretch =
          stretches.emplace_back(std::vector(group, kMinusInfinity), std::vector(group, 0.0f));
      const int64_t query = head_ * tile.pass->n_queries() + tile.first_query;
      call_.kernels.of(keys.type())
          .weigh({.queries = tile.pass->queries.data() + query * call_.padded_dim,
                  .scale = call_.scale,
                  .n_queries = static_cast<int>(group),
                  .head_dim = static_cast<int>(keys.head_dim()),
                  .padded_dim = static_cast<int>(call_.padded_dim),
                  .first = tile.pass->first.data() + tile.first_query,
                  .last = tile.pass->last.data() + tile.first_query,
                  .tile = &keys,
                  .data = data,
                  .first_token = static_cast<int32_t>(t * tile_tokens),
                  .begin = static_cast<int>(begin),
                  .end = static_cast<int>(std::min<int64_t>(n, begin + kBlockTokens)),
                  .softcap = call_.softcap,
                  .max = stretch.max.data(),
                  .sum = stretch.sum.data(),
                  .acc = nullptr},
                 weights_.data() + t * tile_tokens + begin, static_cast<int>(stride_));
    }
  }
  return stretches;
}

// Weights of each stretch are to its own maximum; now to that of all.
void SparseHead::normalise(const std::vector<Stretch>& stretches) {
  const int64_t tile_tokens = call_.geometry.tile_tokens();
  const int64_t stretch_tokens = std::min<int64_t>(tile_tokens, kBlockTokens);
  for (size_t g = 0; g < max_.size(); ++g) {
    for (const Stretch& stretch : stretches) max_[g] = std::max(max_[g], stretch.max[g]);
    float* weight = weights_.data() + static_cast<int64_t>(g) * stride_;
    for (const Stretch& stretch : stretches) {
      const float factor = std::exp(stretch.max[g] - max_[g]);
      sum_[g] += stretch.sum[g] * factor;
      for (int64_t i = 0; i < stretch_tokens; ++i) weight[i] *= factor;
      weight += stretch_tokens;
    }
  }
}

float SparseHead::share(int64_t tile, int64_t begin, int64_t end) const {
  const int64_t first = tile * call_.geometry.tile_tokens();
  float share = 0.0f;
  for (size_t g = 0; g < sum_.size(); ++g) {
    const float* weight = weights_.data() + static_cast<int64_t>(g) * stride_ + first;
    float sum = 0.0f;
    for (int64_t i = begin; i < end; ++i) sum += weight[i];
    share += sum / sum_[g];
  }
  return share / static_cast<float>(sum_.size());
}

void SparseHead::choose() {
  const int64_t tile_tokens = call_.geometry.tile_tokens();
  std::vector<Wanted> candidates;
  std::vector<float> shares;
  std::vector<int32_t> steady;
  float at_hand = 0.0f;
  for (int64_t t = 0; t < std::ssize(tiles_); ++t) {
    const Tile& tile = tiles_[static_cast<size_t>(t)];
    const int64_t n = visible_tokens(t);
    if (!tile.is_stored) {
      at_hand += share(t, 0, n);
      continue;
    }
    for (int64_t begin = 0; begin < n; begin += blocks_.n_tokens) {
      const int64_t end = std::min(n, begin + blocks_.n_tokens);
      const int64_t token = t * tile_tokens;
      // of a tile that is not seen to its end, the mean of what is left would not be of these
      const bool is_cut = n < tile_tokens;
      if (is_cut || token + begin < kFirstTokens || token + end > unit_.token_end - kNewestTokens) {
        steady.push_back(static_cast<int32_t>(candidates.size()));
      }
      candidates.push_back(block(t, begin));
      shares.push_back(share(t, begin, end));
    }
  }
  const auto most = static_cast<int64_t>(  // a float of 0.1 is a little more
      std::ceil(double{call_.sparsity.budget} * static_cast<double>(shares.size()) - 1e-3));
  const Choice choice = choose_blocks(shares, steady, at_hand, call_.sparsity.mass, most);
  for (const int32_t block : choice.blocks) {
    wanted_.push_back(candidates[static_cast<size_t>(block)]);
  }
  const int64_t n_left = (std::ssize(candidates) - std::ssize(wanted_)) * blocks_.n_tokens;
  call_.tally->add(unit_.token_end, std::max<int64_t>(0, unit_.token_end - n_left),
                   choice.left_out);
}

SparseHead::Wanted SparseHead::block(int64_t tile, int64_t begin) const {
  const TileGeometry& geometry = call_.geometry;
  const Region& region = *tiles_[static_cast<size_t>(tile)].pass->tiles.region;
  const int64_t offset = place_ * geometry.stored().bytes() + geometry.stored().v_offset() +
                         begin / blocks_.n_tokens * blocks_.bytes;
  const std::byte* pinned = tile < region.pinned_tiles
                                ? pinned_tile(geometry, region, device_index_, tile) + offset
                                : nullptr;
  return {&region, tile, begin, offset, pinned};
}

void SparseHead::add_values(int64_t tile, int64_t begin, int64_t end, DType type,
                            const std::byte* words, const std::byte* scales) {
  const int64_t first = tile * call_.geometry.tile_tokens();
  const auto head_dim = static_cast<int>(call_.geometry.shape().head_dim);
  const int64_t token_bits = head_dim * element_bits(type);
  for (int64_t from = begin; from < end; from += kBlockTokens) {
    WeightedValues values{
        .words = words + (from - begin) * token_bits / 8,
        .scales = scales ? scales + (from - begin) * int64_t{sizeof(uint32_t)} : nullptr,
        .n_tokens = static_cast<int>(std::min<int64_t>(end - from, kBlockTokens)),
        .n_queries = static_cast<int>(call_.group),
        .head_dim = head_dim,
        .padded_dim = static_cast<int>(call_.padded_dim),
        .weights = weights_.data() + first + from,
        .stride = static_cast<int>(stride_),
        .acc = acc_.data()};
    const ValuesKernel add_to = call_.kernels.of(type).add_values;
    add_to(values);
    if (!tiles_[static_cast<size_t>(tile)].is_stored) continue;
    values.n_queries = 1;
    values.weights = kOnes.data();
    values.acc = read_sum_.data();
    add_to(values);
  }
}

void SparseHead::add(const std::byte* v) {
  const Wanted& wanted = wanted_[n_added_++];
  end_tiles_before(wanted.tile);
  const HeadTile& stored = call_.geometry.stored();
  const std::byte* scales = nullptr;
  if (is_quantised(stored.type())) {
    scales = sketch(wanted.tile) + call_.geometry.sketch()->v_scales_offset() +
             wanted.begin * int64_t{sizeof(uint32_t)};
  }
  const int64_t end = std::min(wanted.begin + blocks_.n_tokens, visible_tokens(wanted.tile));
  add_values(wanted.tile, wanted.begin, end, stored.type(), v, scales);
  n_read_ += end - wanted.begin;
  const int64_t first = wanted.tile * call_.geometry.tile_tokens() + wanted.begin;
  for (int64_t g = 0; g < call_.group; ++g) {
    std::fill_n(weights_.data() + g * stride_ + first, blocks_.n_tokens, 0.0f);
  }
}

void SparseHead::finish() {
  end_tiles_before(std::ssize(tiles_));
  const int64_t head_dim = call_.geometry.shape().head_dim;
  const int64_t n_heads = call_.geometry.shape().n_kv_heads * call_.group;
  for (int64_t g = 0; g < call_.group; ++g) {
    const int64_t to = unit_.batch_row * n_heads + head_ * call_.group + g;
    const auto at = static_cast<size_t>(g);
    call_.max[to] = max_[at];
    call_.sum[to] = sum_[at];
    std::copy_n(acc_.data() + g * call_.padded_dim, head_dim, call_.out + to * head_dim);
  }
  weights_ = {};
}

void SparseHead::end_tiles_before(int64_t tile) {
  for (; next_tile_ < tile; ++next_tile_) {
    end_tile(next_tile_);
    n_read_ = 0;
    std::ranges::fill(read_sum_, 0.0f);
  }
}

void SparseHead::end_tile(int64_t tile) {
  if (!tiles_[static_cast<size_t>(tile)].is_stored) {
    const HeadTile& order = call_.geometry.tail();
    add_values(tile, 0, visible_tokens(tile), order.type(), tail(tile) + order.v_offset(), nullptr);
  } else if (n_read_ < call_.geometry.tile_tokens()) {
    add_left_out(tile);
  }
}

// The weights of what was not read, times its mean.
void SparseHead::add_left_out(int64_t tile) {
  const int64_t tile_tokens = call_.geometry.tile_tokens();
  const auto* sum =
      reinterpret_cast<const float*>(sketch(tile) + call_.geometry.sketch()->v_sum_offset());
  const auto n_left = static_cast<float>(tile_tokens - n_read_);
  for (int64_t g = 0; g < call_.group; ++g) {
    const float* weight = weights_.data() + g * stride_ + tile * tile_tokens;
    float left_out = 0.0f;
    for (int64_t i = 0; i < tile_tokens; ++i) left_out += weight[i];
    if (left_out == 0.0f) continue;
    float* acc = acc_.data() + g * call_.padded_dim;
    for (int64_t d = 0; d < call_.geometry.shape().head_dim; ++d) {
      acc[d] += left_out * ((sum[d] - read_sum_[static_cast<size_t>(d)]) / n_left);
    }
  }
}

}  // namespace nspjax
