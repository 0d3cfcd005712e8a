#include "bindings/references.h"

#include <algorithm>

#include "store/registry.h"

namespace nspjax {

using calls::Kind;

Encoding encoding_of(Kind kind) {
  switch (kind) {
    case Kind::kArray:
      return {1, 0};
    case Kind::kCache:
      return {2, kHandleIntegers};
    case Kind::kWeight:
      return {1, kHandleIntegers};
    case Kind::kTicket:
      return {1, 2};
    case Kind::kDone:
      return {1, 1};
  }
  return {0, 0};
}

std::vector<std::string> encoded_names(const calls::Parameter& parameter) {
  const std::string name(parameter.name);
  if (parameter.kind == Kind::kCache) return {name + "_k", name + "_v"};
  return {name};
}

calls::Reference resolve(Kind kind, const EncodedIntegers& arrays) {
  if (kind == Kind::kTicket) return {find_store(arrays[0][0]), arrays[0][1], 0};
  const Handle handle = kind == Kind::kCache ? parse_handles(arrays[0], arrays[1])
                                             : parse_handle(arrays[0], HandleKind::kWeight);
  return {find_store(handle.store), handle.cache, handle.version};
}

void encode(Kind kind, const Handle& handle, const EncodedIntegers& arrays) {
  if (kind == Kind::kCache) {
    std::ranges::copy(handle_integers(handle, HandleKind::kKeys), arrays[0].begin());
    std::ranges::copy(handle_integers(handle, HandleKind::kValues), arrays[1].begin());
  } else if (kind == Kind::kTicket) {
    arrays[0][0] = handle.store;
    arrays[0][1] = handle.cache;
  } else {
    arrays[0][0] = 0;
  }
}

}  // namespace nspjax
