// RUN: split-attention,interleave{groups=3}
// Five rows in three groups: their sizes differ by one at most, so that none waits for a large one.

// CHECK: "nsp.attend_start"({{.*}}tensor<1x1x4x8xf32>, tensor<1xi32>
// CHECK: "nsp.attend_start"({{.*}}tensor<2x1x4x8xf32>, tensor<2xi32>
// CHECK: "nsp.attend_start"({{.*}}tensor<2x1x4x8xf32>, tensor<2xi32>
// CHECK-NOT: "nsp.attend_start"
// CHECK: stablehlo.concatenate {{.*}}(tensor<1x1x4x8xf32>, tensor<2x1x4x8xf32>, tensor<2x1x4x8xf32>)

!h = tensor<4xi32>
!i = tensor<5xi32>
!q = tensor<5x1x4x8xf32>
!kv = tensor<5x1x2x8xf32>
!lse = tensor<5x1x4xf32>
func.func public @main(%q: !q, %k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %k0: !h, %v0: !h) -> (!q, !h, !h) {
  %a:2 = "nsp.append"(%k0, %v0, %k, %v, %rows, %start, %n) {cache_dtype = "f32", cache_shape = array<i64: 5, 16, 2, 8>, hold = false} : (!h, !h, !kv, !kv, !i, !i, !i) -> (!h, !h)
  %o:4 = "nsp.attend"(%a#0, %a#1, %q, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 5, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  return %o#0, %o#2, %o#3 : !q, !h, !h
}
