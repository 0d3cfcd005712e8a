// The custom calls that XLA programs make to the engine.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace nspjax {

// Target names and handlers; all run on the host. Operands, results and attributes are those of the
// nsp operations of the same name, in nspjax/compiler/nsp.py, with attributes as i64 and f32:
//
// nspjax.append: (hk S32[4], hv S32[4], k [B,T,H,D], v [B,T,H,D], rows S32[B], start S32[B],
//   n_new S32[B]) {hold} -> (hk' S32[4], hv' S32[4])
// nspjax.attend: (hk, hv, q [B,T,Hq,D], rows, position, length S32[B])
//   {scale f32, window, softcap f32, read_ahead} -> (out F32[B,T,Hq,D], lse F32[B,T,Hq], hk', hv')
// nspjax.attend_start: the same -> (ticket S32[2], hk', hv')
// nspjax.attend_wait: (ticket) -> (out, lse)
// nspjax.prefetch: (hk, hv, rows, length S32[B]) {most_bytes} -> token S32[1]
// nspjax.writeback: (hk, hv) {interval_tokens, exclusive} -> token S32[1]
//
// hk and hv are handles (store/handle.h) of one cache and version: K and V live together. A ticket
// is {store, number}. Further operands are not read: they order calls.
std::vector<std::pair<std::string, void*>> ffi_handlers();
// nspjax.fetch: (hk, hv, rows S32[B], begin S32[1], length S32[B]) {n_tokens i64, read_ahead i64}
//   -> (k [B,n_tokens,H,D], v, hk', hv')
// nspjax.x_cache: (hk, hv) {n_heads i64, head_dim i64} -> (x_k S32[4], x_v S32[4])
std::vector<std::pair<std::string, void*>> fetch_handlers();
int ffi_api_minor_version();

}  // namespace nspjax
