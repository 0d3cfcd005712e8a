// Writes of tail tiles that were queued, and what they met.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <vector>

#include "store/cache.h"
#include "store/row.h"

namespace nspjax {

class Lane;

// Tail tiles of some rows of a cache that a job writes out.
struct Writeback {
  CacheView cache;
  std::vector<TilesToWrite> tiles;
  int64_t job = 0;
  std::exception_ptr error = {};  // for those who know that the job has run
};

class WriteQueue {
 public:
  // Queues a job that writes; exclusive: it ends when all is on the medium.
  std::shared_ptr<const Writeback> post(Lane& lane, const CacheView& cache,
                                        std::vector<TilesToWrite> tiles, bool exclusive);
  // The next write whose job has run, in their order; null where there is none.
  std::shared_ptr<const Writeback> take_done(const Lane& lane);
  // Those of a cache that are not known to be done.
  std::vector<std::shared_ptr<const Writeback>> of(int32_t cache) const;
  // What the first write met that was taken and had failed, once.
  void throw_error();
  void clear() { writes_.clear(); }

 private:
  std::deque<std::shared_ptr<Writeback>> writes_;  // queued, and not known to be done
  std::exception_ptr error_;
};

}  // namespace nspjax
