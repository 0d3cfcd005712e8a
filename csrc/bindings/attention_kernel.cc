#include "bindings/attention_kernel.h"

#include <algorithm>
#include <cstring>

#include "attention/attention.h"
#include "attention/job.h"
#include "base/align.h"

namespace nspjax {
namespace {

// A copy, aligned and in whole beats.
std::vector<kernel::Beat> beats_of(const void* data, size_t bytes) {
  std::vector<kernel::Beat> beats(
      static_cast<size_t>(ceil_div(static_cast<int64_t>(bytes), kernel::kBeatBytes)));
  if (bytes > 0) std::memcpy(&beats[0][0], data, bytes);
  return beats;
}

void check_beats(const char* name, uint64_t got, uint64_t needed) {
  if (got >= needed) return;
  fail(ErrorKind::kInvalidArgument, name, " has ", got, " beats of 64 bytes, the operands ask for ",
       needed);
}

// Beats of kv up to the last head's last.
uint64_t kv_beats(const kernel::Job& job, uint64_t n_tiles) {
  if (n_tiles == 0 || job.n_heads == 0) return 0;
  const HeadTile tile(static_cast<DType>(job.type), job.head_dim,
                      int64_t{job.block_tokens} * job.tile_blocks);
  return job.first_beat + (n_tiles - 1) * job.tile_beats +
         static_cast<uint64_t>(job.n_heads - 1) * job.head_beats +
         static_cast<uint64_t>(tile.bytes()) / kernel::kBeatBytes;
}

}  // namespace

nb::object simulate_attention_kernel(const TileArray& kv, const WordArray& operands) {
  const auto kv_memory = beats_of(kv.data(), kv.size());
  const auto operand_memory = beats_of(operands.data(), operands.size() * sizeof(uint32_t));
  check_beats("operands", operand_memory.size(), 1);
  const kernel::Job job = kernel::parse_job(operand_memory[0]);
  size_t n_results = 1;
  if (job.status == kernel::kDone) {
    const auto operand_beats = int64_t{1} + kernel::visible_beats(job.n_queries) +
                               int64_t{job.n_heads} * job.n_queries * job.head_dim_beats();
    check_beats("operands", operand_memory.size(), static_cast<uint64_t>(operand_beats));
    check_beats("kv", kv_memory.size(), kv_beats(job, operand_memory[0][kernel::kTiles]));
    n_results +=
        static_cast<size_t>(int64_t{job.n_heads} * job.n_queries * (1 + job.head_dim_beats()));
  }
  std::vector<kernel::Beat> results(n_results);
  nspjax_attention(kv_memory.data(), operand_memory.data(), results.data());
  std::vector<uint32_t> words(n_results * kernel::kBeatWords);
  std::memcpy(words.data(), &results[0][0], words.size() * sizeof(uint32_t));
  return new_array(std::move(words), {n_results * kernel::kBeatWords});
}

}  // namespace nspjax
