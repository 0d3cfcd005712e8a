// The lane of X: the same devices, a file of its own in each, and a queue of its own, so that X is
// read while the lane of K and V attends. It is opened when the first X is asked for.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/process.h"
#include "base/thread_safety.h"
#include "store/cache_set.h"

namespace nspjax {

inline constexpr const char* kXFile = "nspjax.x.kv";
// Caches of X have numbers from here on; those before it last for a cache every millisecond for
// days.
inline constexpr int32_t kFirstXCache = 1 << 30;

class XLane {
 public:
  // kv: the other lane, whose caches X is kept for, and which lends memory where none is set aside.
  XLane(int32_t store, const StoreOptions& options, CacheSet& kv, Trace& trace, Tickets& tickets);

  // Null before the first X is asked for. Takes no time.
  CacheSet* opened() const;
  // Of the cache that keeps X for one of kv's, made at the first call: its number and version.
  std::pair<int32_t, int32_t> cache_of(int32_t cache, int64_t n_heads, int64_t head_dim);
  // Drops a cache of kv's, and that of its X.
  void drop_both(int32_t cache);
  void close();

 private:
  struct Known {
    int32_t id;
    CacheShape shape;
  };
  const Known& find_or_make(int32_t cache, int64_t n_heads, int64_t head_dim) REQUIRES(making_);
  CacheSet& open() REQUIRES(making_);

  const int32_t store_;
  const StoreOptions& options_;
  CacheSet& kv_;
  Trace& trace_;
  Tickets& tickets_;
  ProcessMutex making_;                                  // before either lane's
  std::map<int32_t, Known> known_ GUARDED_BY(making_);   // by the number of kv's
  mutable ProcessMutex mutex_;                           // last
  std::unique_ptr<CacheSet> opened_ GUARDED_BY(mutex_);  // stays, once it is there
};

}  // namespace nspjax
