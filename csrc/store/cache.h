// What a store keeps of a cache: its rows, where their tiles are, and the tokens that no device
// has.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "base/align.h"
#include "device/device.h"
#include "format/region.h"
#include "format/tile.h"

namespace nspjax {

// A tile of tokens as they were appended, the parts of all devices side by side. Calls that attend
// over it have a share in it.
using TailTile = std::shared_ptr<AlignedBuffer>;

// Tail tiles of some rows of a cache that a job writes out.
struct Writeback {
  struct Tiles {
    int64_t row;
    std::shared_ptr<Region> region;
    int64_t begin;               // the first
    int64_t n_full;              // those that count as stored from now on
    std::vector<TailTile> data;  // they, and perhaps one that is not full
  };
  int32_t cache;
  std::vector<Tiles> tiles;
  int64_t job = 0;
  std::exception_ptr error = {};  // for those who know that the job has run
};

// Tiles come in this order: shared ones, stored ones of the row's own, those in `tail`, of which
// the last may not be full.
struct Row {
  int64_t length = 0;
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
  // The last job that reads the tile that is not full.
  int64_t tail_job = 0;
  // Tiles that should be stored: more than stored_tiles after a write that failed.
  int64_t due_tiles = 0;
  // Tokens that were written out, if only with the tile that is not full.
  int64_t written_tokens = 0;
  // Of the tail, as it was counted last.
  int64_t tail_bytes = 0, held_bytes = 0;

  int64_t own_begin() const { return shared.empty() ? 0 : shared.back().end; }
  // Makes the first n_tiles end a run of shared tiles.
  void share_tiles(int64_t n_tiles);
  // Whether a tile is in `tail`, and its data.
  bool has_in_tail(int64_t tile) const { return tile >= tail_begin && tile < tail_end(); }
  std::byte* tail_tile(int64_t tile) const {
    return tail[static_cast<size_t>(tile - tail_begin)]->data();
  }
  int64_t tail_end() const { return tail_begin + std::ssize(tail); }
  // Tiles before `tile` are stored, and leave the tail.
  void store_before(int64_t tile);
  // Those that are full and not stored.
  Writeback::Tiles full_tiles(int64_t row, int64_t tile_tokens) const;
};

struct Cache {
  int32_t id;
  TileGeometry geometry;
  std::vector<Extent> extents;  // [device]
  std::vector<Row> rows;
  std::vector<std::shared_ptr<Region>> regions;   // one that is only here is free
  std::vector<std::vector<Extent>> more_extents;  // of regions beyond one a row
  MappedRegion pinned;
  int32_t version = 0;
  int64_t tail_bytes = 0;      // when every row has one tile in its tail
  int64_t pinned_bytes = 0;    // when all are full
  int32_t attended_next = -1;  // the cache that was attended over after this one
  int64_t fetched_tokens = 0;  // at a time, by the last fetch; 0: it was attended over
};

// The tiles that hold the tokens [token_begin, token_end) of a row, the tail included.
std::vector<TileSpan> tile_spans(const Cache& cache, const Row& row, int64_t token_begin,
                                 int64_t token_end);

TailTile new_tail_tile(const Cache& cache, int64_t row);
int64_t tail_tile_bytes(const Cache& cache, int64_t row);
// A device's part of tile number `tile` of a row, of what the tail has of it.
void pack_tail_tile(const TileGeometry& geometry, int64_t row, int64_t device, int64_t tile,
                    const std::byte* tail, std::byte* to);

}  // namespace nspjax
