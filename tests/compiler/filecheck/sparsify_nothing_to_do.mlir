// RUN: sparsify
// Several query tokens see different tokens: such an attention reads all.

// CHECK: "nsp.attend"(%arg4, %arg5, %arg0, %arg1, %arg2, %arg3) {block_tokens = 0 : i64, budget = 1.000000e+00 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.000000e+00 : f64, scale

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x2x4x8xf32>
!lse = tensor<2x2x4xf32>
func.func public @main(%x: !q, %rows: !i, %pos: !i, %len: !i, %k0: !h, %v0: !h) -> (!q, !h, !h) {
  %o:4 = "nsp.attend"(%k0, %v0, %x, %rows, %pos, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, scale = 0.5 : f64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  return %o#0, %o#2, %o#3 : !q, !h, !h
}
