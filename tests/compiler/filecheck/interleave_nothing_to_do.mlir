// RUN: interleave
// One row cannot be cut.

// CHECK: %[[Q:.+]] = stablehlo.reshape %{{.+}} : (tensor<1x32xf32>) -> tensor<1x1x4x8xf32>
// CHECK-NEXT: %[[A:.+]]:2 = "nsp.append"(
// CHECK-NEXT: %[[S:.+]]:3 = "nsp.attend_start"(%[[A]]#0, %[[A]]#1, %[[Q]],
// CHECK-NEXT: "nsp.attend_wait"(%[[S]]#0) :

!h = tensor<4xi32>
!i = tensor<1xi32>
!t = tensor<2xi32>
!q = tensor<1x1x4x8xf32>
!kv = tensor<1x1x2x8xf32>
!lse = tensor<1x1x4xf32>
!x = tensor<1x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%x0: !x, %w: !w, %k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %k1: !h, %v1: !h) -> (!x, !h, !h) {
  %q1 = stablehlo.reshape %x0 : (!x) -> !q
  %a1:2 = "nsp.append"(%k1, %v1, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 1, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %s1:3 = "nsp.attend_start"(%a1#0, %a1#1, %q1, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 1, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!t, !h, !h)
  %o1:2 = "nsp.attend_wait"(%s1#0) : (!t) -> (!q, !lse)
  %r1 = stablehlo.reshape %o1#0 : (!q) -> !x
  %m1 = stablehlo.dot_general %r1, %w, contracting_dims = [1] x [0] : (!x, !w) -> !x
  return %m1, %s1#1, %s1#2 : !x, !h, !h
}
