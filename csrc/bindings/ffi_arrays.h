// XLA's buffers and attributes as the calls have them.
#pragma once

#include "calls/arguments.h"
#include "xla/ffi/api/ffi.h"

namespace nspjax {

namespace ffi = xla::ffi;

calls::Array array_of(const ffi::AnyBuffer& buffer);
ffi::AnyBuffer buffer_at(const ffi::RemainingArgs& operands, size_t i);
ffi::AnyBuffer buffer_at(const ffi::RemainingRets& results, size_t i);

// Throws InvalidArgument where it is missing, or of another type.
calls::Value attribute_value(const calls::Call& call, const calls::Attribute& attribute,
                             const ffi::Dictionary& attributes);
// Throws InvalidArgument: there are some that the call does not have.
[[noreturn]] void refuse_attributes(const calls::Call& call, const ffi::Dictionary& attributes);

}  // namespace nspjax
