#include "format/dtype.h"

#include <cstring>
#include <string>

#include "base/error.h"
#include "format/numbers.h"

namespace nspjax {
namespace {

DType parse(std::string_view name, bool stored_too, const char* what) {
  std::string names;
  std::string_view last;
  for (const DTypeRow& row : kDTypes) {
    if (!row.appended && !stored_too) continue;
    if (name == row.name) return row.dtype;
    names.append(names.empty() ? "" : ", ").append(last);
    last = row.name;
  }
  fail(ErrorKind::kInvalidArgument, what, " \"", name, "\": use ", names, " or ", last);
}

// The elements of an array of `Bits`.
template <class Bits, DType kDType>
void decode_array(const void* from, int64_t begin, int64_t n, float* to) {
  const auto* elements = static_cast<const Bits*>(from) + begin;
  for (int64_t i = 0; i < n; ++i) to[i] = Element<kDType>::decode(elements[i]);
}

}  // namespace

DType parse_dtype(std::string_view name) { return parse(name, false, "a KV cache cannot be"); }
DType parse_kv_dtype(std::string_view name) { return parse(name, true, "KV cannot be stored as"); }

void to_f32(const void* from, DType dtype, int64_t begin, int64_t n, float* to) {
  with_dtype(dtype, [&]<DType kDType>() {
    if constexpr (!row_of(kDType).appended) {
      fail(ErrorKind::kInvalidArgument, "arrays of ", dtype_name(kDType), " have no elements of ",
           "their own: tiles only are stored in it");
    } else if constexpr (row_of(kDType).bits == 32) {
      decode_array<uint32_t, kDType>(from, begin, n, to);
    } else {
      decode_array<uint16_t, kDType>(from, begin, n, to);
    }
  });
}

}  // namespace nspjax
