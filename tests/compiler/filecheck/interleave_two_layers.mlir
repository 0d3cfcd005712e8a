// RUN: interleave
// Two groups of two rows: A's part of the second layer runs while B's first attention is waited for,
// and the whole batch is joined at the end alone.

// CHECK-LABEL: func.func public @main
// CHECK: %[[A1:.+]]:2 = "nsp.append"(%[[K1:[^,]+]], %[[V1:[^,]+]], %{{.+}} : (tensor<4xi32>, tensor<4xi32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>)
// CHECK: %[[SA1:.+]]:3 = "nsp.attend_start"(%[[A1]]#0, %[[A1]]#1,
// CHECK: %[[B1:.+]]:2 = "nsp.append"(%[[SA1]]#1, %[[SA1]]#2,
// CHECK: %[[SB1:.+]]:3 = "nsp.attend_start"(%[[B1]]#0, %[[B1]]#1,
// CHECK: %[[WA1:.+]]:2 = "nsp.attend_wait"(%[[SA1]]#0, %[[SB1]]#0)
// CHECK: %[[RA1:.+]] = stablehlo.reshape %[[WA1]]#0 : (tensor<2x1x4x8xf32>) -> tensor<2x32xf32>
// CHECK: stablehlo.dot_general %[[RA1]], %{{.+}} : (tensor<2x32xf32>, tensor<32x32xf32>)
// CHECK: %[[SA2:.+]]:3 = "nsp.attend_start"(
// CHECK: %[[WB1:.+]]:2 = "nsp.attend_wait"(%[[SB1]]#0, %[[SA2]]#0)
// CHECK: stablehlo.reshape %[[WB1]]#0
// CHECK: %[[B2:.+]]:2 = "nsp.append"(%[[SA2]]#1, %[[SA2]]#2,
// CHECK: %[[SB2:.+]]:3 = "nsp.attend_start"(%[[B2]]#0, %[[B2]]#1,
// CHECK: %[[WA2:.+]]:2 = "nsp.attend_wait"(%[[SA2]]#0, %[[SB2]]#0)
// CHECK: %[[WB2:.+]]:2 = "nsp.attend_wait"(%[[SB2]]#0)
// CHECK: %[[X:.+]] = stablehlo.concatenate %{{.+}}, %{{.+}}, dim = 0 : (tensor<2x32xf32>, tensor<2x32xf32>) -> tensor<4x32xf32>
// CHECK: return %[[X]], %[[SB1]]#1, %[[SB1]]#2, %[[SB2]]#1, %[[SB2]]#2

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
  %x1 = stablehlo.add %x0, %m1 : !x
  %q2 = stablehlo.reshape %x1 : (!x) -> !q
  %a2:2 = "nsp.append"(%k2, %v2, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 4, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %s2:3 = "nsp.attend_start"(%a2#0, %a2#1, %q2, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 4, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!t, !h, !h)
  %o2:2 = "nsp.attend_wait"(%s2#0) : (!t) -> (!q, !lse)
  %r2 = stablehlo.reshape %o2#0 : (!q) -> !x
  %m2 = stablehlo.dot_general %r2, %w, contracting_dims = [1] x [0] : (!x, !w) -> !x
  %x2 = stablehlo.add %x1, %m2 : !x
  return %x2, %s1#1, %s1#2, %s2#1, %s2#2 : !x, !h, !h, !h, !h
}
