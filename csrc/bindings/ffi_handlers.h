// The custom calls that XLA programs make to the engine.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace nspjax {

// Target names and handlers; both run on the host.
//
// nspjax.append: (hk S32[3], hv S32[3], k [B,T,H,D], v [B,T,H,D], rows S32[B], start S32[B],
//   n_new S32[B]) -> (hk' S32[3], hv' S32[3])
// nspjax.attend: (hk, hv, q [B,T,Hq,D], rows, position, length S32[B])
//   {scale f32, window i64, softcap f32} -> (out F32[B,T,Hq,D], lse F32[B,T,Hq], hk', hv')
//
// hk and hv are handles {store, cache, version} and must be equal: K and V live together.
std::vector<std::pair<std::string, void*>> ffi_handlers();
// nspjax.fetch: (hk, hv, rows S32[B], begin S32[1], length S32[B]) {n_tokens i64, read_ahead i64}
//   -> (k [B,n_tokens,H,D], v, hk', hv')
// nspjax.x_cache: (hk, hv) {n_heads i64, head_dim i64} -> (x_k S32[3], x_v S32[3])
std::vector<std::pair<std::string, void*>> fetch_handlers();
int ffi_api_minor_version();

}  // namespace nspjax
