// Stand-in for Vitis HLS's header of this name, for C simulation: what our kernels use of it. Of a
// block it keeps what was written, however large a block may be.
#pragma once

#include <cassert>
#include <cstddef>
#include <deque>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace hls {

template <typename Block>
class write_lock;
template <typename Block>
class read_lock;

template <typename Block, int kDepth = 2>
class stream_of_blocks;

template <typename Block>
class BlockQueue {
 protected:
  friend class write_lock<Block>;
  friend class read_lock<Block>;
  using Element = std::remove_extent_t<Block>;
  std::deque<std::vector<Element>> blocks_;
};

template <typename Block, int kDepth>
class stream_of_blocks : public BlockQueue<Block> {
 public:
  stream_of_blocks() = default;
  stream_of_blocks(const stream_of_blocks&) = delete;
  stream_of_blocks& operator=(const stream_of_blocks&) = delete;
  ~stream_of_blocks() { assert(this->blocks_.empty() && "a stage left blocks unread"); }
};

template <typename Block>
class write_lock {
 public:
  explicit write_lock(BlockQueue<Block>& blocks) : block_(blocks.blocks_.emplace_back()) {}
  write_lock(const write_lock&) = delete;
  write_lock& operator=(const write_lock&) = delete;

  auto& operator[](std::size_t i) {
    if (i >= std::extent_v<Block>) throw std::logic_error("a stage writes beyond a block");
    if (i >= block_.size()) block_.resize(i + 1);
    return block_[i];
  }

 private:
  std::vector<std::remove_extent_t<Block>>& block_;
};

template <typename Block>
class read_lock {
 public:
  explicit read_lock(BlockQueue<Block>& blocks) : blocks_(blocks) {
    if (blocks.blocks_.empty()) throw std::logic_error("a stage reads a block that nobody wrote");
  }
  ~read_lock() { blocks_.blocks_.pop_front(); }
  read_lock(const read_lock&) = delete;
  read_lock& operator=(const read_lock&) = delete;

  const auto& operator[](std::size_t i) const {
    const auto& block = blocks_.blocks_.front();
    if (i >= block.size()) throw std::logic_error("a stage reads what a block does not have");
    return block[i];
  }

 private:
  BlockQueue<Block>& blocks_;
};

}  // namespace hls
