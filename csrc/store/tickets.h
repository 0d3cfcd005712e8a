// Attentions that were started and not waited for.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "base/process.h"
#include "store/attend_job.h"

namespace nspjax {

class Tickets {
 public:
  explicit Tickets(int32_t store) : store_(store) {}

  // So many may be outstanding: each has a result in memory.
  static constexpr size_t kMost = 1024;

  // Throws InvalidArgument where there are too many.
  void check_room() const;
  // A number for a job; with `outstanding`, take() gives it out once.
  int32_t add(const std::shared_ptr<AttendJob>& job, bool outstanding);
  // Throws InvalidArgument, StoreClosed.
  std::shared_ptr<AttendJob> take(int32_t ticket);
  void drop(int32_t cache);
  void close();

 private:
  const int32_t store_;
  mutable ProcessMutex mutex_;
  std::map<int32_t, std::shared_ptr<AttendJob>> jobs_ GUARDED_BY(mutex_);
  int32_t last_ GUARDED_BY(mutex_) = 0;
  bool closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace nspjax
