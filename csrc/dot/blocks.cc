#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "base/align.h"
#include "dot/block.h"

namespace nspjax {
namespace {

std::vector<DotBlock> blocks_of(const Dot& dot, int n_threads) {
  const int64_t share = round_up(dot.n / n_threads, kDotMultiple);
  const int64_t columns = std::clamp(share, 2 * kDotMultiple, kDotBlockColumns);
  std::vector<DotBlock> blocks;
  for (int64_t row = 0; row < dot.m; row += kDotBlockRows) {
    for (int64_t column = 0; column < dot.n; column += columns) {
      blocks.push_back(
          {row, std::min(row + kDotBlockRows, dot.m), column, std::min(column + columns, dot.n)});
    }
  }
  return blocks;
}

// Shared with functions that may begin when all blocks are done: those touch nothing but a counter.
class Work {
 public:
  Work(const Dot& dot, std::vector<DotBlock> blocks, size_t n_workers)
      : dot_(dot),
        blocks_(std::move(blocks)),
        worker_lines_(dot_scratch_lines(blocks_[0].end_row - blocks_[0].first_row,
                                        blocks_[0].end_column - blocks_[0].first_column)),
        scratch_(std::make_unique_for_overwrite<DotLine[]>(n_workers * worker_lines_)) {}

  void run() {
    size_t block = next_block_.fetch_add(1);
    if (block >= blocks_.size()) return;
    DotLine* const scratch = &scratch_[next_worker_.fetch_add(1) * worker_lines_];
    for (; block < blocks_.size(); block = next_block_.fetch_add(1)) {
      dot_block(dot_, blocks_[block], scratch);
      if (n_done_.fetch_add(1) + 1 == blocks_.size()) n_done_.notify_all();
    }
  }

  void wait() const {
    for (size_t done = n_done_; done < blocks_.size(); done = n_done_) n_done_.wait(done);
  }

 private:
  Dot dot_;
  std::vector<DotBlock> blocks_;  // the first is the largest
  size_t worker_lines_;
  std::unique_ptr<DotLine[]> scratch_;
  std::atomic<size_t> next_block_{0}, next_worker_{0}, n_done_{0};
};

}  // namespace

void dot_blocks(const Dot& dot, int n_threads, const Schedule& schedule) {
  std::vector<DotBlock> blocks = blocks_of(dot, n_threads);
  if (blocks.empty()) return;
  const size_t n_workers = std::min(blocks.size(), static_cast<size_t>(n_threads));
  const auto work = std::make_shared<Work>(dot, std::move(blocks), n_workers);
  for (size_t i = 1; i < n_workers; ++i) schedule([work] { work->run(); });
  work->run();
  work->wait();
}

}  // namespace nspjax
