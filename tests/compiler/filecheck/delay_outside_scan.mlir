// RUN: split-attention,delay-writeback{placement=outside-scan}
// Behind the wait of its layer; the next scan begins later.

// CHECK: %[[S:.+]]:3 = "nsp.attend_start"(
// CHECK-NEXT: %[[W:.+]]:2 = "nsp.attend_wait"(%[[S]]#0)
// CHECK-NEXT: %[[T:.+]] = "nsp.writeback"(%[[S]]#1, %[[S]]#2, %[[W]]#0) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, exclusive = true, interval_tokens = 16 : i64}
// CHECK: %[[S2:.+]]:3 = "nsp.attend_start"({{.*}}, %[[T]])
// CHECK-NEXT: %[[W2:.+]]:2 = "nsp.attend_wait"(%[[S2]]#0)
// CHECK-NEXT: "nsp.writeback"(%[[S2]]#1, %[[S2]]#2, %[[W2]]#0)

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x1x4x8xf32>
!kv = tensor<2x1x2x8xf32>
!lse = tensor<2x1x4xf32>
!x = tensor<2x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %x: !q, %k0: !h, %v0: !h, %k1: !h, %v1: !h) -> (!q, !h, !h, !h, !h) {
  %a:2 = "nsp.append"(%k0, %v0, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %o:4 = "nsp.attend"(%a#0, %a#1, %x, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %y = stablehlo.add %o#0, %x : !q
  %f = stablehlo.slice %y [0:2, 0:1, 0:2, 0:8] : (!q) -> !kv
  %k2 = stablehlo.negate %f : !kv
  %v2 = stablehlo.negate %f : !kv
  %pos = stablehlo.add %start, %n : !i
  %b:2 = "nsp.append"(%k1, %v1, %k2, %v2, %rows, %pos, %n) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %len1 = stablehlo.add %len, %n : !i
  %p:4 = "nsp.attend"(%b#0, %b#1, %y, %rows, %pos, %len1) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  return %p#0, %o#2, %o#3, %p#2, %p#3 : !q, !h, !h, !h, !h
}
