// The tokens of one row of a cache: where their tiles are, and those that no device has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/align.h"
#include "format/pack.h"
#include "format/region.h"
#include "format/tile.h"

namespace nspjax {

// A tile of tokens as they were appended, the parts of all devices side by side. Calls that attend
// over it have a share in it.
using TailTile = std::shared_ptr<AlignedBuffer>;

// What a job holds of a row, whatever becomes of the row itself. Tiles come in this order: shared
// ones, stored ones of the row's own, those in `tail`, of which the last may not be full.
struct RowTiles {
  int64_t length = 0;
  // Tokens before this one were dropped, or are about to be: a tile's first.
  int64_t begin = 0;
  // Full tiles that other rows may have too: in token order, before those of `own`.
  struct Shared {
    std::shared_ptr<const Region> region;
    int64_t end;  // its last tile + 1
  };
  std::vector<Shared> shared;
  std::shared_ptr<Region> own;
  // Tiles before this one are pinned, on a device, or in a write that is queued.
  int64_t stored_tiles = 0;
  // Tiles from tail_begin on. Those before stored_tiles are kept until their write is done.
  std::vector<TailTile> tail;
  int64_t tail_begin = 0;

  int64_t own_begin() const { return shared.empty() ? 0 : shared.back().end; }
  // Whether a tile is in `tail`, and its data.
  bool has_in_tail(int64_t tile) const { return tile >= tail_begin && tile < tail_end(); }
  std::byte* tail_tile(int64_t tile) const {
    return tail[static_cast<size_t>(tile - tail_begin)]->data();
  }
  int64_t tail_end() const { return tail_begin + std::ssize(tail); }
  int64_t n_kept() const { return std::max<int64_t>(0, length - begin); }
  // The tiles that hold the tokens [token_begin, token_end), the tail included.
  std::vector<TileSpan> spans(int64_t tile_tokens, int64_t token_begin, int64_t token_end) const;
  // Those of these tokens that no device has go to `into`.
  void copy_tail(const TileGeometry& geometry, int64_t row, int64_t token_begin, int64_t token_end,
                 const TokenRun<std::byte>& into) const;
};

// Full tiles of a row's tail that are to be stored, and perhaps one that is not full.
struct TilesToWrite {
  int64_t row;
  std::shared_ptr<Region> region;
  int64_t begin;               // the first
  int64_t n_full;              // those that count as stored from now on
  std::vector<TailTile> data;  // they, and perhaps one that is not full
};

struct Row : RowTiles {
  // The last job that reads the tile that is not full.
  int64_t tail_job = 0;
  // Tiles that should be stored: more than stored_tiles after a write that failed.
  int64_t due_tiles = 0;
  // Tokens that were written out, if only with the tile that is not full.
  int64_t written_tokens = 0;
  // Of the tail, as it was counted last.
  int64_t tail_bytes = 0, held_bytes = 0;

  // As it is now, for a job.
  RowTiles tiles() const { return *this; }
  // Makes the first n_tiles end a run of shared tiles.
  void share_tiles(int64_t n_tiles);
  // Shared tiles from n_tiles on are let go.
  void cut_shared(int64_t n_tiles);
  // Tiles before `tile` are stored, and leave the tail.
  void store_before(int64_t tile);
  // Those that are full and not stored.
  TilesToWrite full_tiles(int64_t row, int64_t tile_tokens) const;
};

// A tile of a row's tail: its bytes, a new one, and a device's part of it as it is stored.
int64_t tail_tile_bytes(const TileGeometry& geometry, int64_t row);
TailTile new_tail_tile(const TileGeometry& geometry, int64_t row);
void pack_tail_tile(const TileGeometry& geometry, int64_t row, int64_t device, int64_t tile,
                    const std::byte* tail, std::byte* to);

}  // namespace nspjax
