// RUN: split-attention,interleave
// The two halves take turns already: nothing is cut.

// CHECK-COUNT-4: "nsp.attend_start"(
// CHECK-NOT: "nsp.attend_start"
// CHECK-NOT: stablehlo.slice

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x1x4x8xf32>
!kv = tensor<2x1x2x8xf32>
!lse = tensor<2x1x4xf32>
!x = tensor<2x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %x: !q, %y: !q, %k0: !h, %v0: !h, %k1: !h, %v1: !h) -> (!q, !q, !h, !h, !h, !h) {
  %a:2 = "nsp.append"(%k0, %v0, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %o:4 = "nsp.attend"(%a#0, %a#1, %x, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %x1 = stablehlo.tanh %o#0 : !q
  %b:2 = "nsp.append"(%k1, %v1, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %p:4 = "nsp.attend"(%b#0, %b#1, %y, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %y1 = stablehlo.tanh %p#0 : !q
  %o2:4 = "nsp.attend"(%o#2, %o#3, %x1, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %x2 = stablehlo.tanh %o2#0 : !q
  %p2:4 = "nsp.attend"(%p#2, %p#3, %y1, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %y2 = stablehlo.tanh %p2#0 : !q
  return %x2, %y2, %o2#2, %o2#3, %p2#2, %p2#3 : !q, !q, !h, !h, !h, !h
}
