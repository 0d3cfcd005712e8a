// RUN: verify-schedule
// REFUSED: and so does nsp.attend_wait at

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x1x4x8xf32>
!kv = tensor<2x1x2x8xf32>
!lse = tensor<2x1x4xf32>
!x = tensor<2x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %x: !q, %k0: !h, %v0: !h) -> (!q, !h, !h) {
  %s:3 = "nsp.attend_start"(%k0, %v0, %x, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (tensor<2xi32>, !h, !h)
  %o:2 = "nsp.attend_wait"(%s#0) : (tensor<2xi32>) -> (!q, !lse)
  %p:2 = "nsp.attend_wait"(%s#0) : (tensor<2xi32>) -> (!q, !lse) loc("model.py":7:3)
  return %o#0, %s#1, %s#2 : !q, !h, !h
}
