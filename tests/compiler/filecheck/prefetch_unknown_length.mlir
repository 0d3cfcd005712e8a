// RUN: split-attention,prefetch
// How long the next layer's rows are depends on this layer's result: it is not announced.

// CHECK-NOT: nsp.prefetch
// CHECK: "nsp.attend_start"({{.*}} read_ahead = false
// CHECK: "nsp.prefetch"(
// CHECK: "nsp.attend_start"({{.*}} read_ahead = false

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
  %ms = stablehlo.slice %y [0:2, 0:1, 0:1, 0:1] : (!q) -> tensor<2x1x1x1xf32>
  %mr = stablehlo.reshape %ms : (tensor<2x1x1x1xf32>) -> tensor<2xf32>
  %m = stablehlo.convert %mr : (tensor<2xf32>) -> !i
  %len1 = stablehlo.add %len, %m : !i
  %p:4 = "nsp.attend"(%b#0, %b#1, %y, %rows, %pos, %len1) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  return %p#0, %o#2, %o#3, %p#2, %p#3 : !q, !h, !h, !h, !h
}
