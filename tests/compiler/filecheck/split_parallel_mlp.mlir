// RUN: split-attention
// An MLP beside the attention runs before the wait, held there by its last operation alone. What
// only prepares weights is not held.

// CHECK: %[[S:.+]]:3 = "nsp.attend_start"(
// CHECK-DAG: %[[M:.+]] = stablehlo.dot_general %arg6, %arg11
// CHECK-DAG: %[[T:.+]] = stablehlo.tanh %[[M]]
// CHECK-DAG: %[[MLP:.+]] = stablehlo.dot_general %[[T]], %arg12
// CHECK: %[[W:.+]]:2 = "nsp.attend_wait"(%[[S]]#0, %[[MLP]]) : (tensor<2xi32>, tensor<2x32xf32>)
// CHECK-NEXT: stablehlo.reshape %[[W]]#0

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x1x4x8xf32>
!kv = tensor<2x1x2x8xf32>
!lse = tensor<2x1x4xf32>
!x = tensor<2x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %x: !x, %k0: !h, %v0: !h, %wq: !w, %wo: !w, %w1: !w, %w2: !w) -> (!x, !h, !h) {
  %xq = stablehlo.dot_general %x, %wq, contracting_dims = [1] x [0] : (!x, !w) -> !x
  %q = stablehlo.reshape %xq : (!x) -> !q
  %a:2 = "nsp.append"(%k0, %v0, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %o:4 = "nsp.attend"(%a#0, %a#1, %q, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %of = stablehlo.reshape %o#0 : (!q) -> !x
  %wot = stablehlo.transpose %wo, dims = [1, 0] : (!w) -> !w
  %wn = stablehlo.multiply %w2, %w2 : !w
  %y = stablehlo.dot_general %of, %wot, contracting_dims = [1] x [0] : (!x, !w) -> !x
  %m = stablehlo.dot_general %x, %w1, contracting_dims = [1] x [0] : (!x, !w) -> !x
  %m1 = stablehlo.tanh %m : !x
  %m2 = stablehlo.dot_general %m1, %w2, contracting_dims = [1] x [0] : (!x, !w) -> !x
  %z = stablehlo.add %y, %m2 : !x
  %z1 = stablehlo.dot_general %z, %wn, contracting_dims = [1] x [0] : (!x, !w) -> !x
  return %z1, %o#2, %o#3 : !x, !h, !h
}
