// What stands in a program for a cache or a weight: integers that only the engine makes, and that
// it knows again.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nspjax {

struct Handle {
  int32_t store;
  int32_t cache;  // or weight
  int32_t version;
};

// A handle of one kind is none of another.
enum class HandleKind : uint8_t { kKeys, kValues, kWeight };

// Store, cache, version, and a check over them, their order, the kind, and a secret of this
// process: what was made of handles by arithmetic, indexing or selection, or by another process,
// is no handle.
inline constexpr size_t kHandleIntegers = 4;
using HandleIntegers = std::array<int32_t, kHandleIntegers>;

HandleIntegers handle_integers(const Handle& handle, HandleKind kind);
// Throws InvalidArgument where they are no handle of that kind.
Handle parse_handle(std::span<const int32_t> integers, HandleKind kind);
// The same of a cache's keys or its values.
Handle parse_cache_handle(std::span<const int32_t> integers);
// Programs have both: they must be of one cache and version.
Handle parse_handles(std::span<const int32_t> keys, std::span<const int32_t> values);

}  // namespace nspjax
