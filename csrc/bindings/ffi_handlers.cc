#include "bindings/ffi_handlers.h"

#include <array>
#include <functional>
#include <utility>

#include "bindings/ffi_arrays.h"
#include "bindings/references.h"
#include "calls/table.h"

namespace nspjax {
namespace {

using calls::Call;
using calls::Kind;

// What the engine throws becomes "[nspjax:Kind] text", which Python turns into its class.
template <typename Fn>
ffi::Error guarded(const Fn& fn) {
  const auto error = [](std::string_view kind, const char* what) {
    return ffi::Error::Internal(concat("[nspjax:", kind, "] ", what));
  };
  try {
    fn();
    return ffi::Error::Success();
  } catch (const Error& e) {
    return error(kind_name(e.kind()), e.what());
  } catch (const std::exception& e) {
    return error(kind_name(ErrorKind::kStorageIO), e.what());
  }
}

// Walks over the buffers of a call, of which a parameter takes one or two.
class Decoder {
 public:
  Decoder(const Call& call, const char* what, Buffers buffers)
      : call_(call), what_(what), buffers_(buffers) {}

  calls::Array array(std::string_view name) {
    if (next_ >= buffers_.size()) {
      fail(ErrorKind::kInvalidArgument, "nspjax.", call_.name, " was given ", buffers_.size(), " ",
           what_, ": ", name, " is missing");
    }
    return array_of(buffers_[next_++]);
  }

  EncodedIntegers integers(const calls::Parameter& parameter) {
    EncodedIntegers result;
    const auto [n_arrays, n_integers] = encoding_of(parameter.kind);
    for (size_t i = 0; i < n_arrays; ++i) {
      const calls::Array got = array(parameter.name);
      const auto n = static_cast<int64_t>(n_integers);
      if (got.type != "i32") {
        refuse(parameter, i, got.type, "i32");
      } else if (got.sizes.size() != 1 || got.sizes[0] != n) {
        refuse(parameter, i, calls::shape_text(got.sizes), concat("[", n, "]"));
      }
      result[i] = {got.as<int32_t>(), n_integers};
    }
    return result;
  }

  void check_end() const {
    if (next_ == buffers_.size()) return;
    fail(ErrorKind::kInvalidArgument, "nspjax.", call_.name, " has ", next_, " ", what_, ", got ",
         buffers_.size());
  }

 private:
  [[noreturn]] void refuse(const calls::Parameter& parameter, size_t i, std::string_view got,
                           std::string_view wanted) const {
    fail(ErrorKind::kInvalidArgument, "nspjax.", call_.name, ": ", encoded_names(parameter)[i],
         " is ", got, ", it must be ", wanted);
  }

  const Call& call_;
  const char* what_;
  Buffers buffers_;
  size_t next_ = 0;
};

void run(const Call& call, Buffers operands, Buffers results, const ffi::Dictionary& attributes,
         const calls::Threads* threads = nullptr) {
  calls::Arguments given;
  given.threads = threads;
  Decoder operand(call, "operands", operands);
  for (size_t i = 0; i < call.operands.size(); ++i) {
    const calls::Parameter& parameter = call.operands[i];
    if (parameter.kind == Kind::kArray) {
      given.operands[i] = operand.array(parameter.name);
    } else {
      given.about = resolve(parameter.kind, operand.integers(parameter));
    }
  }
  for (size_t i = 0; i < call.attributes.size(); ++i) {
    given.attributes[i] = attribute_value(call, call.attributes[i], attributes);
  }
  if (attributes.size() != call.attributes.size()) refuse_attributes(call, attributes);
  Decoder result(call, "results", results);
  std::array<EncodedIntegers, calls::kMostParameters> integers;
  for (size_t i = 0; i < call.results.size(); ++i) {
    const calls::Parameter& parameter = call.results[i];
    if (parameter.kind == Kind::kArray) {
      given.results[i] = result.array(parameter.name);
    } else {
      integers[i] = result.integers(parameter);
    }
  }
  result.check_end();
  call.run(given);
  for (size_t i = 0; i < call.results.size(); ++i) {
    const Kind kind = call.results[i].kind;
    if (kind != Kind::kArray) encode(kind, given.references[i], integers[i]);
  }
}

auto everything() { return ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs(); }

// One function for each call: that is all that XLA knows it by.
template <size_t kIndex>
XLA_FFI_Error* handler(XLA_FFI_CallFrame* frame) {
  static constexpr const Call& kCall = calls::kCalls[kIndex];
  if constexpr (kCall.uses_threads) {
    static const auto bound = everything().Ctx<ffi::ThreadPool>().To(
        [](ffi::RemainingArgs operands, ffi::RemainingRets results, ffi::Dictionary attributes,
           ffi::ThreadPool pool) {
          const calls::Threads threads{
              static_cast<int>(pool.num_threads()),
              [&](std::function<void()> work) { pool.Schedule(std::move(work)); }};
          return guarded(
              [&] { run(kCall, buffers_of(operands), buffers_of(results), attributes, &threads); });
        });
    return bound->Call(frame);
  } else {
    static const auto bound = everything().To([](ffi::RemainingArgs operands,
                                                 ffi::RemainingRets results,
                                                 ffi::Dictionary attributes) {
      return guarded([&] { run(kCall, buffers_of(operands), buffers_of(results), attributes); });
    });
    return bound->Call(frame);
  }
}

template <size_t... kIndices>
std::vector<std::pair<std::string, void*>> handlers(std::index_sequence<kIndices...>) {
  return {{concat("nspjax.", calls::kCalls[kIndices].name),
           reinterpret_cast<void*>(&handler<kIndices>)}...};
}

}  // namespace

std::vector<std::pair<std::string, void*>> ffi_handlers() {
  return handlers(std::make_index_sequence<calls::kCalls.size()>());
}

int ffi_api_minor_version() { return XLA_FFI_API_MINOR; }

}  // namespace nspjax
