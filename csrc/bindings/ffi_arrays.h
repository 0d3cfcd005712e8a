// XLA's buffers and attributes as the calls have them.
#pragma once

#include <span>

#include "calls/arguments.h"
#include "xla/ffi/api/ffi.h"

namespace nspjax {

namespace ffi = xla::ffi;

// A call's operands or results, an XLA_FFI_Buffer each: there is no other kind. XLA's own get()
// prepares an error's text for every one of them, which is slow.
using Buffers = std::span<void* const>;
Buffers buffers_of(const ffi::RemainingArgs& operands);
Buffers buffers_of(const ffi::RemainingRets& results);
calls::Array array_of(const void* buffer);

// Throws InvalidArgument where it is missing, or of another type.
calls::Value attribute_value(const calls::Call& call, const calls::Attribute& attribute,
                             const ffi::Dictionary& attributes);
// Throws InvalidArgument: there are some that the call does not have.
[[noreturn]] void refuse_attributes(const calls::Call& call, const ffi::Dictionary& attributes);

}  // namespace nspjax
