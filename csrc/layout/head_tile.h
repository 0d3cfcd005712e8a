// How K and V of one KV head and a fixed number of tokens lie: the order that the kernels read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/align.h"
#include "base/dtype.h"

namespace nspjax {

class HeadTile {
 public:
  HeadTile(KVType type, int64_t head_dim, int64_t tile_tokens)
      : type_(type), head_dim_(head_dim), tile_tokens_(tile_tokens) {}
  KVType type() const { return type_; }
  int64_t head_dim() const { return head_dim_; }
  int64_t tile_tokens() const { return tile_tokens_; }
  int64_t vector_bytes() const { return head_dim_ * (type_ == KVType::kF32 ? 4 : 2); }
  int64_t v_offset() const { return round_up(tile_tokens_ * vector_bytes(), 64); }
  int64_t bytes() const { return 2 * v_offset(); }

 private:
  KVType type_;
  int64_t head_dim_;
  int64_t tile_tokens_;
};

struct HeadRows {
  const std::byte* k;
  const std::byte* v;
  int64_t stride_bytes;
};
struct MutableHeadRows {
  std::byte* k;
  std::byte* v;
  int64_t stride_bytes;
};

void pack_head(const HeadTile& tile, const HeadRows& rows, int64_t begin, int64_t end,
               std::byte* to);
void unpack_head(const HeadTile& tile, const std::byte* from, int64_t begin, int64_t end,
                 const MutableHeadRows& rows);
void copy_head_tokens(const HeadTile& tile, const std::byte* from, int64_t n, std::byte* to);
void convert_head(const HeadTile& from, const std::byte* data, const HeadTile& to, std::byte* into);

}  // namespace nspjax
