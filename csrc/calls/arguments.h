// What a call is given, decoded: plain views of arrays, and what it is about, resolved.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "calls/description.h"
#include "dot/dot.h"
#include "format/dtype.h"
#include "store/handle.h"
#include "store/store.h"

namespace nspjax::calls {

// "[2, 3]"
std::string shape_text(std::span<const int64_t> sizes);

// Row-major.
struct Array {
  std::string_view type;           // as MLIR spells it
  int64_t element_bytes = 0;       // 0: less than one
  std::span<const int64_t> sizes;  // [axis]
  void* data = nullptr;

  // Of an array that was checked.
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  std::span<const int32_t> integers() const {
    return {as<int32_t>(), static_cast<size_t>(sizes[0])};
  }
};

// A cache, a weight or a ticket of a store. Where a program has them from is the bindings'
// business.
struct Reference {
  std::shared_ptr<Store> store;
  int32_t number = 0;
  int32_t version = 0;  // of a cache
};

union Value {
  int64_t integer;
  float real;
};

// The caller's threads.
struct Threads {
  int n;
  Schedule schedule;
};

struct Arguments {
  Reference about;                                // the operand that is no array
  std::array<Array, kMostParameters> operands{};  // [operand], those that are arrays
  std::array<Value, kMostParameters> attributes{};
  std::array<Array, kMostParameters> results{};
  // What the call gives for the results that are caches or tickets: {store, number, version}.
  std::array<Handle, kMostParameters> references{};
  const Threads* threads = nullptr;
};

// How long the axes of a call are, by their letters.
class Sizes {
 public:
  struct Known {
    char letter;
    int64_t size;
  };
  static constexpr int64_t kUnknown = -1;

  explicit Sizes(std::initializer_list<Known> known);
  int64_t operator[](char letter) const { return sizes_[index(letter)]; }
  int64_t& operator[](char letter) { return sizes_[index(letter)]; }

 private:
  static constexpr size_t index(char letter) { return static_cast<size_t>(letter - 'A'); }
  std::array<int64_t, 26> sizes_;
};

// Every array of a call against its description. known: sizes that the cache has, or an attribute;
// cache_type: what "cache" stands for. Throws InvalidArgument.
Sizes check(const Call& call, const Arguments& given, std::initializer_list<Sizes::Known> known,
            std::string_view cache_type);

// A call's arguments by their names, which are looked up when this is compiled.
template <const Call& kCall>
class Given {
 public:
  explicit Given(Arguments& given) : given_(given) {}

  struct Operand {
    size_t index;
    consteval Operand(const char* name) : index(kCall.operands.index(name)) {}
  };
  struct Result {
    size_t index;
    consteval Result(const char* name) : index(kCall.results.index(name)) {}
  };
  template <bool kReal>
  struct AttributeOf {
    size_t index;
    consteval AttributeOf(const char* name) : index(kCall.attributes.index(name)) {
      if ((kCall.attributes[index].type == "f32") != kReal) throw std::invalid_argument(name);
    }
  };

  const Reference& about() const { return given_.about; }
  const Array& operand(Operand name) const { return given_.operands[name.index]; }
  const Array& result(Result name) const { return given_.results[name.index]; }
  int64_t integer(AttributeOf<false> name) const { return given_.attributes[name.index].integer; }
  bool flag(AttributeOf<false> name) const { return integer(name) != 0; }
  float real(AttributeOf<true> name) const { return given_.attributes[name.index].real; }
  const Threads& threads() const { return *given_.threads; }

  Sizes check(std::initializer_list<Sizes::Known> known = {}) const {
    return calls::check(kCall, given_, known, {});
  }
  Sizes check(const CacheShape& cache, std::initializer_list<Sizes::Known> known) const {
    return calls::check(kCall, given_, known, dtype_name(cache.dtype));
  }

  // The result that is a cache or a ticket.
  void give(Result name, const Handle& handle) const { given_.references[name.index] = handle; }
  // The cache that the call is about, at a version.
  void give_next(int32_t version) const {
    give("handle", {about().store->id(), about().number, version});
  }

 private:
  Arguments& given_;
};

}  // namespace nspjax::calls
