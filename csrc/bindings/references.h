// How what a call is about travels in a program: integers among the call's operands and results.
// Nothing else knows; what they stand for is resolved here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "calls/arguments.h"

namespace nspjax {

// A cache is two handles (store/handle.h), of its keys and of its values; a weight is one. A ticket
// is {store, number}. What only says that a call has run is a 0.
struct Encoding {
  size_t n_arrays;
  size_t n_integers;  // of each
};
Encoding encoding_of(calls::Kind kind);
// The names of the arrays: "handle_k", "handle_v".
std::vector<std::string> encoded_names(const calls::Parameter& parameter);

// The arrays themselves.
using EncodedIntegers = std::array<std::span<int32_t>, 2>;
// Throws InvalidArgument, StoreClosed.
calls::Reference resolve(calls::Kind kind, const EncodedIntegers& arrays);
// handle: {store, number, version}, which the call gave.
void encode(calls::Kind kind, const Handle& handle, const EncodedIntegers& arrays);

}  // namespace nspjax
