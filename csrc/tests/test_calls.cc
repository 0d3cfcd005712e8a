// The call layer on plain arrays: what each call does, and what it refuses.
#include <algorithm>
#include <cmath>
#include <vector>

#include "call_examples.h"

namespace nspjax::testing {
namespace {

// ---- what they do -------------------------------------------------------------------------------

// Row 1 gets three tokens with V 1, 2, 3; row 0 one. K is 0, so that all tokens weigh the same.
void test_a_step() {
  const Fixture f;
  const auto appended = f.append();
  std::vector<float> v;
  for (int64_t i = 0; i < kRows * kNewTokens * kHeads * kDim; ++i) {
    v.push_back(static_cast<float>(i / (kHeads * kDim) + 1));  // 1 2 3 of the first, 4 of the other
  }
  appended->set("v", v);
  appended->run();
  check(appended->reference("handle").version == 1, "the next version");
  check(f.store->lengths(f.cache) == std::vector<int64_t>{1, 3}, "lengths");

  const auto check_attended = [](const Example& attended) {
    const auto out = attended.result<float>("out"), lse = attended.result<float>("lse");
    for (size_t i = 0; i < out.size(); ++i) {
      const bool first = i < out.size() / kRows;
      check(std::abs(out[i] - (first ? 2.0f : 4.0f)) < 1e-6f, "the mean of V");
    }
    for (size_t i = 0; i < lse.size(); ++i) {
      const double wanted = i < lse.size() / kRows ? std::log(3.0) : 0.0;
      check(std::abs(lse[i] - wanted) < 1e-6, "the logarithm of how many");
    }
  };
  f.prefetch()->run();
  const auto attended = f.attend(calls::kAttend);
  attended->run();
  check_attended(*attended);
  check(attended->reference("handle").version == 1, "the same version");
  const auto waited = f.attend_wait();
  waited->run();
  check_attended(*waited);
  check_throws(ErrorKind::kInvalidArgument, [&] { waited->run(); });
  f.writeback()->run();

  const auto fetched = f.fetch();
  fetched->run();
  const auto got = fetched->result<float>("v");
  for (size_t i = 0; i < got.size(); ++i) {
    const auto token = static_cast<int64_t>(i) / (kHeads * kDim);
    check(got[i] == (token < 4 ? static_cast<float>(token + 1) : 0.0f), "as appended, 0 beyond");
  }

  const auto taken = f.take_rows();
  taken->run();
  check(taken->reference("handle").version == 2, "the next version");
  check(f.store->lengths(f.cache) == std::vector<int64_t>{3, 3}, "both as row 1 was");
}

void test_windows_and_softcaps_arrive() {
  const Fixture f;
  const auto appended = f.append();
  std::vector<float> v(kRows * kNewTokens * kHeads * kDim, 1.0f);
  std::fill_n(v.begin() + 2 * kHeads * kDim, kHeads * kDim, 9.0f);  // the third token
  appended->set("v", v);
  appended->run();
  const auto attended = f.attend(calls::kAttend);
  attended->attribute("window", 8).set<int32_t>("position", {7, 0});  // query 2 is at 9: from 2 on
  attended->run();
  const auto out = attended->result<float>("out");
  const size_t query = kQueryHeads * kDim;
  check(std::abs(out[0] - 11.0f / 3) < 1e-5f && std::abs(out[query] - 5.0f) < 1e-5f &&
            std::abs(out[2 * query] - 9.0f) < 1e-5f,
        "three, two and one token");
  attended->attribute("window", -1);
  check_throws(ErrorKind::kInvalidArgument, [&] { attended->run(); });
  attended->attribute("window", 0).real("softcap", -1.0f);
  check_throws(ErrorKind::kInvalidArgument, [&] { attended->run(); });
}

void test_weights_and_x() {
  const Fixture f;
  const auto loaded = f.on_weight(calls::kLoad);
  loaded->run();
  check(loaded->result<int16_t>("value") == std::vector<int16_t>(6, 0x0707), "its bytes");
  f.on_weight(calls::kLoadAhead)->run();
  const auto made = f.x_cache();
  made->run();
  const Handle x = made->reference("x");
  check(find_store(x.store)->shape(x.cache).head_dim == 16, "the shape that was asked for");
  made->attribute("head_dim", 8);
  check_throws(ErrorKind::kInvalidArgument, [&] { made->run(); });
}

void test_dot(bool transposed) {
  const Fixture f;
  const auto product = f.dot(transposed);
  constexpr uint16_t kOne = 0x3f80, kTwo = 0x4000;
  product->set("x", std::vector<uint16_t>(size_t{3} * 32, kOne));
  std::vector<uint16_t> w(size_t{32} * 64, kTwo);
  for (size_t k = 0; k < 32; ++k) w[transposed ? k : k * 64] = kOne;  // column 0
  product->set("w", w);
  product->run();
  const auto out = product->result<float>("out");
  for (size_t i = 0; i < out.size(); ++i) check(out[i] == (i % 64 ? 64.0f : 32.0f), "the sum");
}

// ---- what they refuse ---------------------------------------------------------------------------

std::vector<std::vector<int64_t>> wrong_shapes(std::span<const int64_t> right) {
  const std::vector<int64_t> sizes(right.begin(), right.end());
  std::vector<std::vector<int64_t>> wrong(2, sizes);
  wrong[0].push_back(1);
  wrong[1].insert(wrong[1].begin(), 1);
  wrong.emplace_back(sizes.begin(), sizes.end() - 1);
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    for (const int64_t more : {1, -1}) {
      wrong.push_back(sizes);
      wrong.back()[axis] += more;
    }
  }
  return wrong;
}

// Sizes that would be right if nothing else in the call said otherwise.
bool may_be(const Call& call, const calls::Parameter& parameter, std::span<const int64_t> right,
            const std::vector<int64_t>& other) {
  if (call.name == "attend_start" && parameter.name == "q") {  // it has no result of that shape
    return other.size() == 4 && other[0] == right[0] && other[3] == right[3] &&
           other[2] % kHeads == 0;
  }
  return false;
}

void test_every_wrong_array_is_refused() {
  const Fixture f;
  f.append()->run();
  f.append()->run();
  for (const auto& make : f.all()) {
    make()->run();
    const auto right = make();
    const Call& call = right->call();
    const auto check_all = [&](const calls::Named<calls::Parameter>& parameters, auto arrays) {
      for (size_t i = 0; i < parameters.size(); ++i) {
        const calls::Parameter& parameter = parameters[i];
        if (parameter.kind != Kind::kArray) continue;
        const calls::Array array = (right->given.*arrays)[i];
        const auto check_refused = [&](const std::vector<int64_t>& sizes, std::string_view type) {
          const auto wrong = make();
          wrong->change((wrong->given.*arrays)[i], sizes, type);
          const int32_t version = f.store->version(f.cache);
          check_throws(ErrorKind::kInvalidArgument, [&] { wrong->run(); });
          check(f.store->version(f.cache) == version, "nothing has changed");
        };
        for (const auto& sizes : wrong_shapes(array.sizes)) {
          if (may_be(call, parameter, array.sizes, sizes)) continue;
          if (parameter.axes == "*" && sizes.size() == 3) continue;  // as many bytes
          check_refused(sizes, array.type);
        }
        const std::vector<int64_t> sizes(array.sizes.begin(), array.sizes.end());
        for (const std::string_view type : {"i8", "f16", "bf16", "f32", "i32"}) {
          const bool float_too = parameter.type == "float" && type != "i8" && type != "i32";
          const bool same_bytes = parameter.type == "bytes" && bytes_of(type) == 2;
          if (type == array.type || float_too || same_bytes) continue;
          check_refused(sizes, type);
        }
      }
    };
    check_all(call.operands, &calls::Arguments::operands);
    check_all(call.results, &calls::Arguments::results);
  }
}

// Arrays that fit each other, but not the cache or the call's attributes.
void test_all_arrays_may_be_wrong_together() {
  const Fixture f;
  f.append()->run();
  const auto check_refused = [&](char axis, int64_t size, const auto&... make) {
    Fixture other = f;
    other.sizes[axis] = size;
    (check_throws(ErrorKind::kInvalidArgument, [&] { make(other)->run(); }), ...);
  };
  const auto append = [](const Fixture& made) { return made.append(); };
  const auto attend = [](const Fixture& made) { return made.attend(calls::kAttend); };
  const auto start = [](const Fixture& made) { return made.attend(calls::kAttendStart); };
  const auto fetch = [](const Fixture& made) { return made.fetch(); };
  check_refused('H', kHeads + 1, append, fetch);
  check_refused('D', 2 * kDim, append, attend, start, fetch);
  check_refused('Q', kQueryHeads + 1, attend, start);
  check_refused('T', kNewTokens - 1, fetch);
}

void test_messages() {
  const Fixture f;
  const auto check_says = [](Example& wrong, const std::string& text) {
    try {
      wrong.run();
    } catch (const Error& error) {
      return check(std::string(error.what()).find(text) != std::string::npos, error.what());
    }
    check(false, "nothing was thrown");
  };
  const auto appended = f.append();
  const auto& operands = calls::kAppend.operands;
  appended->change(appended->given.operands[operands.index("v")], {2, 4, 2, 8}, "f32");
  check_says(*appended,
             "nspjax.append: v is [2, 4, 2, 8], it must be [B = 2, T = 3, H = 2, D = 8]");
  appended->change(appended->given.operands[operands.index("k")], {2, 3, 2, 8}, "bf16");
  check_says(*appended, "nspjax.append: k is bf16, but the cache is f32");
  const auto fetched = f.fetch();
  fetched->change(fetched->given.operands[calls::kFetch.operands.index("begin")], {2}, "i32");
  check_says(*fetched, "nspjax.fetch: begin is [2], it must be [1]");
  fetched->change(fetched->given.operands[calls::kFetch.operands.index("rows")], {2}, "f32");
  check_says(*fetched, "nspjax.fetch: rows is f32, it must be i32");
  const auto attended = f.attend(calls::kAttend);
  attended->change(attended->given.operands[calls::kAttend.operands.index("q")], {2}, "i8");
  check_says(*attended, "nspjax.attend: q is i8, it must be f32, bf16 or f16");
  const auto loaded = f.on_weight(calls::kLoad);
  loaded->given.results[0].element_bytes = 0;  // XLA's i4
  check_says(*loaded, "nspjax.load: value is i16, it must have elements of whole bytes");
}

void test_stale_and_gone() {
  const Fixture f;
  f.append()->run();
  for (const auto& make :
       {Fixture::Make([&] { return f.append(); }),
        Fixture::Make([&] { return f.attend(calls::kAttend); }),
        Fixture::Make([&] { return f.attend(calls::kAttendStart); }),
        Fixture::Make([&] { return f.writeback(); }), Fixture::Make([&] { return f.fetch(); })}) {
    const auto stale = make();
    stale->given.about.version = 0;
    check_throws(ErrorKind::kStaleHandle, [&] { stale->run(); });
    const auto gone = make();
    gone->given.about.number += 100;
    check_throws(ErrorKind::kStoreClosed, [&] { gone->run(); });
  }
  std::vector<std::unique_ptr<Example>> all;
  for (const auto& make : f.all()) all.push_back(make());
  f.store->close();
  for (const auto& closed : all) {
    if (closed->call().name == "dot") continue;
    check_throws(ErrorKind::kStoreClosed, [&] { closed->run(); });
  }
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  test_a_step();
  test_windows_and_softcaps_arrive();
  test_weights_and_x();
  if (nspjax::can_dot()) {
    test_dot(false);
    test_dot(true);
  }
  test_every_wrong_array_is_refused();
  test_all_arrays_may_be_wrong_together();
  test_messages();
  test_stale_and_gone();
}
