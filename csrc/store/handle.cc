#include "store/handle.h"

#include <algorithm>
#include <random>
#include <string>

#include "base/error.h"

namespace nspjax {
namespace {

constexpr std::array kKinds = {HandleKind::kKeys, HandleKind::kValues, HandleKind::kWeight};

const char* kind_text(HandleKind kind) {
  switch (kind) {
    case HandleKind::kKeys:
      return "a KV cache's keys";
    case HandleKind::kValues:
      return "a KV cache's values";
    case HandleKind::kWeight:
      return "a weight";
  }
  return "nothing";
}

uint64_t process_secret() {
  static const uint64_t secret = [] {
    std::random_device random;
    return uint64_t{random()} << 32 | random();
  }();
  return secret;
}

// The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

int32_t check_value(const Handle& handle, HandleKind kind) {
  uint64_t hash = mixed(process_secret() + static_cast<uint64_t>(kind));
  for (const int32_t part : {handle.store, handle.cache, handle.version}) {
    hash = mixed(hash + 0x9e3779b97f4a7c15U + static_cast<uint32_t>(part));
  }
  return static_cast<int32_t>(static_cast<uint32_t>(hash));
}

Handle handle_of(std::span<const int32_t> integers) {
  return {integers[0], integers[1], integers[2]};
}

// Stores are numbered from 1, so that zeros are never a handle.
bool is_of(std::span<const int32_t> integers, HandleKind kind) {
  return integers[0] > 0 && integers[3] == check_value(handle_of(integers), kind);
}

std::string text_of(std::span<const int32_t> integers) {
  std::string text = "[";
  for (const int32_t each : integers) text += concat(text.size() > 1 ? ", " : "", each);
  return text + "]";
}

}  // namespace

HandleIntegers handle_integers(const Handle& handle, HandleKind kind) {
  return {handle.store, handle.cache, handle.version, check_value(handle, kind)};
}

Handle parse_handle(std::span<const int32_t> integers, HandleKind kind) {
  if (integers.size() != kHandleIntegers) {
    fail(ErrorKind::kInvalidArgument, "a handle has ", kHandleIntegers, " integers, got ",
         integers.size());
  }
  if (is_of(integers, kind)) return handle_of(integers);
  for (const HandleKind other : kKinds) {
    if (is_of(integers, other)) {
      fail(ErrorKind::kInvalidArgument, "a handle of ", kind_text(kind), " is needed, got that of ",
           kind_text(other));
    }
  }
  const bool zeros = std::ranges::all_of(integers, [](int32_t each) { return each == 0; });
  fail(ErrorKind::kInvalidArgument, text_of(integers), " is no handle of ", kind_text(kind),
       zeros ? ", but what zeros_like makes of one"
             : ": it was computed with (indexed, selected, filled, cast), or is of another process",
       ". What is in a store cannot be changed through its handle, e.g. with jax.tree.map: to "
       "reorder rows (beams) use Store.share_prefix, to restart rows or roll them back "
       "with_lengths, to keep them for another process Store.save_prefix");
}

Handle parse_cache_handle(std::span<const int32_t> integers) {
  const bool values = integers.size() == kHandleIntegers && is_of(integers, HandleKind::kValues);
  return parse_handle(integers, values ? HandleKind::kValues : HandleKind::kKeys);
}

Handle parse_handles(std::span<const int32_t> keys, std::span<const int32_t> values) {
  const Handle k = parse_handle(keys, HandleKind::kKeys);
  const Handle v = parse_handle(values, HandleKind::kValues);
  if (k.store != v.store || k.cache != v.cache || k.version != v.version) {
    fail(ErrorKind::kInvalidArgument,
         "K and V handles of different caches or versions were mixed: ", text_of(keys), " and ",
         text_of(values), "; go on with both of what one call returned");
  }
  return k;
}

}  // namespace nspjax
