// RUN: interleave
// What mixes the rows between two layers stays whole, and no wait is for a start that needs it.

// CHECK: %[[WA1:.+]]:2 = "nsp.attend_wait"(%{{[^,]+}}, %{{[^,]+}})
// CHECK: %[[WB1:.+]]:2 = "nsp.attend_wait"(%{{[^,]+}}) : (tensor<2xi32>)
// CHECK: %[[X:.+]] = stablehlo.concatenate
// CHECK: stablehlo.reverse %[[X]], dims = [0] : tensor<4x32xf32>
// CHECK: %[[SA2:.+]]:3 = "nsp.attend_start"(
// CHECK: %[[SB2:.+]]:3 = "nsp.attend_start"(
// CHECK: "nsp.attend_wait"(%[[SA2]]#0, %[[SB2]]#0)

!h = tensor<4xi32>
!i = tensor<4xi32>
!t = tensor<2xi32>
!q = tensor<4x1x4x8xf32>
!kv = tensor<4x1x2x8xf32>
!lse = tensor<4x1x4xf32>
!x = tensor<4x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%x0: !x, %w: !w, %k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %k1: !h, %v1: !h, %k2: !h, %v2: !h) -> (!x, !h, !h, !h, !h) {
  %q1 = stablehlo.reshape %x0 : (!x) -> !q
  %a1:2 = "nsp.append"(%k1, %v1, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 4, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %s1:3 = "nsp.attend_start"(%a1#0, %a1#1, %q1, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 4, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!t, !h, !h)
  %o1:2 = "nsp.attend_wait"(%s1#0) : (!t) -> (!q, !lse)
  %r1 = stablehlo.reshape %o1#0 : (!q) -> !x
  %m1 = stablehlo.dot_general %r1, %w, contracting_dims = [1] x [0] : (!x, !w) -> !x
  %x1 = stablehlo.reverse %m1, dims = [0] : !x
  %q2 = stablehlo.reshape %x1 : (!x) -> !q
  %a2:2 = "nsp.append"(%k2, %v2, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 4, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %s2:3 = "nsp.attend_start"(%a2#0, %a2#1, %q2, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 4, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!t, !h, !h)
  %o2:2 = "nsp.attend_wait"(%s2#0) : (!t) -> (!q, !lse)
  %r2 = stablehlo.reshape %o2#0 : (!q) -> !x
  %m2 = stablehlo.dot_general %r2, %w, contracting_dims = [1] x [0] : (!x, !w) -> !x
  return %m2, %s1#1, %s1#2, %s2#1, %s2#2 : !x, !h, !h, !h, !h
}
