// An attention that was asked for: what it needs, taken when it was, and what came of it.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <vector>

#include "device/attend_call.h"
#include "store/announced.h"
#include "store/arguments.h"
#include "store/cache.h"
#include "store/write_queue.h"

namespace nspjax {

struct AttendJob {
  AttendArgs args;
  CacheView cache;
  int32_t ticket = 0;
  std::vector<RowTiles> rows;  // [B], as they were
  // Writes of rows that were queued and not known to be done.
  std::vector<std::shared_ptr<const Writeback>> writes;
  DeviceReads guess;  // of what is read next

  int64_t number = 0;
  bool has_run = false;
  std::exception_ptr error;

  // Of a call that does not wait: what `args` refers to.
  struct Owned {
    std::vector<std::byte> q;
    std::vector<int32_t> rows, position, length;
    AttendResult result;
  };
  Owned owned;

  // Makes `args` refer to copies, and to a result of the job's own.
  void own_arguments();
  // Lets go of all but the result.
  void release();
};

// What the executor does.
void run_attend(Lane& lane, AttendJob& job);

// What the devices are asked for; the caller adds what is read next. max and sum: [B, T,
// n_q_heads].
AttendCall plan_attend(const AttendJob& job, Lane& lane, std::span<float> max,
                       std::span<float> sum);

}  // namespace nspjax
