// RUN: interleave{groups=3}
// Inside a loop, three groups of one, one and two rows; what is carried is joined.

// CHECK: stablehlo.while
// CHECK: do {
// CHECK: %[[SA:.+]]:3 = "nsp.attend_start"({{.*}} -> (tensor<2xi32>, tensor<4xi32>, tensor<4xi32>)
// CHECK: %[[SB:.+]]:3 = "nsp.attend_start"(
// CHECK: %[[SC:.+]]:3 = "nsp.attend_start"(
// CHECK: "nsp.attend_wait"(%[[SA]]#0, %[[SC]]#0) {{.*}} -> (tensor<1x1x4x8xf32>, tensor<1x1x4xf32>)
// CHECK: "nsp.attend_wait"(%[[SB]]#0) {{.*}} -> (tensor<1x1x4x8xf32>, tensor<1x1x4xf32>)
// CHECK: "nsp.attend_wait"(%[[SC]]#0) {{.*}} -> (tensor<2x1x4x8xf32>, tensor<2x1x4xf32>)
// CHECK: %[[X:.+]] = stablehlo.concatenate {{.*}} : (tensor<1x32xf32>, tensor<1x32xf32>, tensor<2x32xf32>) -> tensor<4x32xf32>
// CHECK: stablehlo.return %[[X]], %[[SC]]#1, %[[SC]]#2

!h = tensor<4xi32>
!i = tensor<4xi32>
!t = tensor<2xi32>
!q = tensor<4x1x4x8xf32>
!kv = tensor<4x1x2x8xf32>
!lse = tensor<4x1x4xf32>
!x = tensor<4x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%x0: !x, %w: !w, %k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %k1: !h, %v1: !h, %go: tensor<i1>) -> (!x, !h, !h) {
  %l:3 = stablehlo.while(%y = %x0, %hk = %k1, %hv = %v1) : !x, !h, !h
  cond {
    stablehlo.return %go : tensor<i1>
  } do {
    %q1 = stablehlo.reshape %y : (!x) -> !q
    %a1:2 = "nsp.append"(%hk, %hv, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 4, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
    %s1:3 = "nsp.attend_start"(%a1#0, %a1#1, %q1, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 4, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!t, !h, !h)
    %o1:2 = "nsp.attend_wait"(%s1#0) : (!t) -> (!q, !lse)
    %r1 = stablehlo.reshape %o1#0 : (!q) -> !x
    %m1 = stablehlo.dot_general %r1, %w, contracting_dims = [1] x [0] : (!x, !w) -> !x
    %x1 = stablehlo.add %y, %m1 : !x
    stablehlo.return %x1, %s1#1, %s1#2 : !x, !h, !h
  }
  return %l#0, %l#1, %l#2 : !x, !h, !h
}
