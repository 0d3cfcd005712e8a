// RUN: verify-schedule
// REFUSED: nsp.attend at model.py:7 reads the handle from before nsp.append at

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x1x4x8xf32>
!kv = tensor<2x1x2x8xf32>
!lse = tensor<2x1x4xf32>
!x = tensor<2x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %x: !q, %k0: !h, %v0: !h) -> (!q, !h, !h) {
  %a:2 = "nsp.append"(%k0, %v0, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %o:4 = "nsp.attend"(%k0, %v0, %x, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h) loc("model.py":7:3)
  return %o#0, %o#2, %o#3 : !q, !h, !h
}
