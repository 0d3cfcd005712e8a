// An attention that was asked for: what it needs, taken when it was, and what came of it.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <vector>

#include "device/attend_call.h"
#include "format/dtype.h"
#include "store/cache.h"

namespace nspjax {

// Query t of batch row b stands at position[b] + t and sees stored token j iff j < length[b],
// j <= position[b] + t and, with a window, j > position[b] + t - window.
struct AttendArgs {
  const void* q;  // [B, T, n_q_heads, head_dim]
  DType q_dtype;
  int64_t n_tokens;
  int64_t n_q_heads;
  std::span<const int32_t> rows;
  std::span<const int32_t> position;
  std::span<const int32_t> length;
  float scale;
  int64_t window;  // 0: none
  float softcap;   // 0: none
  float* out;      // [B, T, n_q_heads, head_dim]; 0 for a query that sees nothing
  float* lse;      // [B, T, n_q_heads]; -inf for such a query
  // What the device reads next: what will probably be attended over then, or else what prefetch()
  // has announced.
  bool read_ahead = true;
};

struct AttendResult {
  std::array<int64_t, 4> sizes;  // of out: B, T, n_q_heads, head_dim
  std::vector<float> out;
  std::vector<float> lse;
};

struct AttendJob {
  AttendArgs args;
  const Cache* cache;  // its geometry only: the rest may change meanwhile
  int32_t cache_id;
  int32_t ticket = 0;
  std::vector<Row> rows;  // [B], as they were
  // Writes of rows that were queued and not known to be done.
  std::vector<std::shared_ptr<const Writeback>> writes;
  std::vector<std::vector<TileRange>> guess;  // [device], of what is read next

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

// What the devices are asked for; the caller adds what is read next. max and sum: [B, T,
// n_q_heads].
AttendCall plan_attend(const AttendJob& job, const KernelSet& kernels, Trace& trace, bool verify,
                       int64_t read_bytes, std::span<float> max, std::span<float> sum);

}  // namespace nspjax
