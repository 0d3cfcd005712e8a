// Every call that a program makes to the engine, described once.
#pragma once

#include <array>

#include "calls/description.h"

namespace nspjax::calls {

void append(Arguments& given);
void attend(Arguments& given);
void attend_start(Arguments& given);
void attend_wait(Arguments& given);
void prefetch(Arguments& given);
void writeback(Arguments& given);
void take_rows(Arguments& given);
void fetch(Arguments& given);
void x_cache(Arguments& given);
void load(Arguments& given);
void load_ahead(Arguments& given);
void dot(Arguments& given);

// k and v go to the rows from `start` on, n_new tokens of them: see AppendArgs.
inline constexpr Call kAppend{.name = "append",
                              .operands = {{"handle", Kind::kCache},
                                           {"k", "BTHD", "cache"},
                                           {"v", "BTHD", "cache"},
                                           {"rows", "B", "i32"},
                                           {"start", "B", "i32"},
                                           {"n_new", "B", "i32"}},
                              .attributes = {{"hold", "bool"}},
                              .results = {{"handle", Kind::kCache}},
                              .run = append};

// The rows' first `length` tokens are attended over: see AttendArgs.
inline constexpr Named<Parameter> kQuery{{"handle", Kind::kCache},
                                         {"q", "BTQD", "float"},
                                         {"rows", "B", "i32"},
                                         {"position", "B", "i32"},
                                         {"length", "B", "i32"}};
inline constexpr Named<Attribute> kAttention{
    {"scale", "f32"}, {"window", "i64"}, {"softcap", "f32"},      {"read_ahead", "bool"},
    {"mass", "f32"},  {"budget", "f32"}, {"block_tokens", "i64"},
};
inline constexpr Call kAttend{
    .name = "attend",
    .operands = kQuery,
    .attributes = kAttention,
    .results = {{"out", "BTQD", "f32"}, {"lse", "BTQ", "f32"}, {"handle", Kind::kCache}},
    .run = attend};

// The same in two calls; one wait for each start.
inline constexpr Call kAttendStart{.name = "attend_start",
                                   .operands = kQuery,
                                   .attributes = kAttention,
                                   .results = {{"ticket", Kind::kTicket}, {"handle", Kind::kCache}},
                                   .run = attend_start};
inline constexpr Call kAttendWait{.name = "attend_wait",
                                  .operands = {{"ticket", Kind::kTicket}},
                                  .attributes = {},
                                  .results = {{"out", "BTQD", "f32"}, {"lse", "BTQ", "f32"}},
                                  .run = attend_wait};

// Reads of what will be attended over may begin, most_bytes of them; 0: all that there is room for.
inline constexpr Call kPrefetch{
    .name = "prefetch",
    .operands = {{"handle", Kind::kCache}, {"rows", "B", "i32"}, {"length", "B", "i32"}},
    .attributes = {{"most_bytes", "i64"}},
    .results = {{"done", Kind::kDone}},
    .run = prefetch};

// Row i goes on as row order[i], which had length[order[i]] tokens: see TakeRowsArgs.
inline constexpr Call kTakeRows{
    .name = "take_rows",
    .operands = {{"handle", Kind::kCache}, {"order", "S", "i32"}, {"length", "S", "i32"}},
    .attributes = {},
    .results = {{"handle", Kind::kCache}},
    .run = take_rows};

// Rows with interval_tokens or more that were not written are. exclusive: nothing else meanwhile.
inline constexpr Call kWriteback{.name = "writeback",
                                 .operands = {{"handle", Kind::kCache}},
                                 .attributes = {{"interval_tokens", "i64"}, {"exclusive", "bool"}},
                                 .results = {{"done", Kind::kDone}},
                                 .run = writeback};

// n_tokens tokens from `begin` on: see FetchArgs.
inline constexpr Call kFetch{
    .name = "fetch",
    .operands = {{"handle", Kind::kCache},
                 {"rows", "B", "i32"},
                 {"begin", "1", "i32"},
                 {"length", "B", "i32"}},
    .attributes = {{"n_tokens", "i64"}, {"window", "i64"}, {"read_ahead", "bool"}},
    .results = {{"k", "BTHD", "cache"}, {"v", "BTHD", "cache"}, {"handle", Kind::kCache}},
    .run = fetch};

// The cache that keeps X for rows of this one.
inline constexpr Call kXCache{.name = "x_cache",
                              .operands = {{"handle", Kind::kCache}},
                              .attributes = {{"n_heads", "i64"}, {"head_dim", "i64"}},
                              .results = {{"x", Kind::kCache}},
                              .run = x_cache};

// A weight's bytes. The engine does not know their shape.
inline constexpr Call kLoad{.name = "load",
                            .operands = {{"weight", Kind::kWeight}},
                            .attributes = {},
                            .results = {{"value", "*", "bytes"}},
                            .run = load};
inline constexpr Call kLoadAhead{.name = "load_ahead",
                                 .operands = {{"weight", Kind::kWeight}},
                                 .attributes = {},
                                 .results = {{"done", Kind::kDone}},
                                 .run = load_ahead};

// out = x · w, or x · wᵀ if transposed, in float32 sums.
inline constexpr Call kDot{.name = "dot",
                           .operands = {{"x", "MK", "bf16"}, {"w", "KN", "bf16", "NK"}},
                           .attributes = {{"transposed", "bool"}},
                           .results = {{"out", "MN", "f32"}},
                           .run = dot,
                           .uses_threads = true};

inline constexpr std::array kCalls = {kAppend,   kAttend,   kAttendStart, kAttendWait,
                                      kTakeRows, kPrefetch, kWriteback,   kFetch,
                                      kXCache,   kLoad,     kLoadAhead,   kDot};

}  // namespace nspjax::calls
