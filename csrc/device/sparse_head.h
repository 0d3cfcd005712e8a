// One row's query token with the query heads of one KV head: weighs all tokens, chooses blocks of
// V, and is given them in the order of tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "device/attend_call.h"

namespace nspjax {

// Tokens whose V is read at once, of a tile of a cache.
struct ValueBlocks {
  int64_t n_tokens;
  int64_t bytes;

  // n_tokens: 0 chooses.
  ValueBlocks(const HeadTile& stored, int64_t n_tokens);
};

class SparseHead {
 public:
  // A run of the row's tiles, and which of its pass's queries are this row's.
  struct Part {
    const AttendPass* pass;
    int64_t first_query;
  };
  // A block of V that is to be added.
  struct Wanted {
    const Region* region;
    int64_t tile;
    int64_t begin;            // its first token in the tile
    int64_t offset;           // in the tile's part on the device
    const std::byte* pinned;  // where host memory has it; null: it must be read
  };

  // parts: in the order of tokens. place: the head's among those of the row on the device.
  SparseHead(const AttendCall& call, const QueryUnit& unit, std::span<const Part> parts,
             int64_t device_index, int64_t place);

  // The first thing that is done.
  void score();
  // In the order of tokens.
  const std::vector<Wanted>& wanted() const { return wanted_; }
  // The next of them, given its V.
  void add(const std::byte* v);
  // When all were given: puts the result where the call has it.
  void finish();

  int64_t block_bytes() const { return blocks_.bytes; }

 private:
  struct Tile {
    const AttendPass* pass;
    int64_t first_query;
    bool is_stored;  // or in the tail
  };
  // Statistics of a stretch of tokens that was weighed at once, [group].
  struct Stretch {
    std::vector<float> max, sum;
  };

  const std::byte* sketch(int64_t tile) const;
  const std::byte* tail(int64_t tile) const;
  int64_t visible_tokens(int64_t tile) const;
  std::vector<Stretch> weigh();
  void normalise(const std::vector<Stretch>& stretches);
  // Of the softmax, the mean over the group: what tokens [begin, end) of a tile have.
  float share(int64_t tile, int64_t begin, int64_t end) const;
  void choose();
  Wanted block(int64_t tile, int64_t begin) const;
  // acc += weights . V, of tokens of a tile.
  void add_values(int64_t tile, int64_t begin, int64_t end, DType type, const std::byte* words,
                  const std::byte* scales);
  void end_tiles_before(int64_t tile);
  void end_tile(int64_t tile);
  void add_left_out(int64_t tile);

  const AttendCall& call_;
  const QueryUnit& unit_;
  const int64_t device_index_;
  const int64_t place_;
  const int64_t head_;  // of the row
  const ValueBlocks blocks_;
  std::vector<Tile> tiles_;
  int64_t stride_;                // of weights_
  std::vector<float> weights_;    // [group, tokens of tiles_]; 0 once V was added
  std::vector<float> max_, sum_;  // [group]
  std::vector<float> acc_;        // [group, padded_dim]
  std::vector<Wanted> wanted_;
  size_t n_added_ = 0;           // of wanted_
  int64_t next_tile_ = 0;        // the first that has not ended
  int64_t n_read_ = 0;           // its tokens whose V was added,
  std::vector<float> read_sum_;  // [padded_dim] and the sum of that
};

}  // namespace nspjax
