#include "store/tickets.h"

#include <limits>

#include "base/error.h"

namespace nspjax {

void Tickets::check_room() const {
  const Lock lock(mutex_);
  if (jobs_.size() < kMost) return;
  fail(ErrorKind::kInvalidArgument, "attend_start: store ", store_, " has ", jobs_.size(),
       " attentions that were started and never waited for: call attend_wait once for each "
       "attend_start, or drop the caches of those that nobody wants");
}

int32_t Tickets::add(const std::shared_ptr<AttendJob>& job, bool outstanding) {
  const Lock lock(mutex_);
  last_ = last_ == std::numeric_limits<int32_t>::max() ? 1 : last_ + 1;
  if (outstanding) jobs_.insert_or_assign(last_, job);
  return last_;
}

std::shared_ptr<AttendJob> Tickets::take(int32_t ticket) {
  const Lock lock(mutex_);
  if (closed_) fail(ErrorKind::kStoreClosed, "store ", store_, " is closed: open another");
  auto job = jobs_.extract(ticket);
  if (job) return std::move(job.mapped());
  const bool known = ticket > 0 && ticket <= last_;
  fail(ErrorKind::kInvalidArgument, "attend_wait for ticket ", ticket, " of store ", store_,
       known ? ": it was waited for already, or its cache was dropped"
             : ": no attend_start has given it",
       "; wait once for each attend_start");
}

void Tickets::drop(int32_t cache) {
  const Lock lock(mutex_);
  std::erase_if(jobs_, [cache](const auto& job) { return job.second->cache.id == cache; });
}

void Tickets::close() {
  const Lock lock(mutex_);
  closed_ = true;
  jobs_.clear();
}

}  // namespace nspjax
