// RUN: sparsify{mass=0.9 budget=0.25 block-tokens=32},split-attention,prefetch,lower-to-ffi
// A decode step over two layers, of which one has a window: the attention that sees everything reads
// a part, and its tiles are not announced.

// CHECK: custom_call @nspjax.prefetch(%[[A:.+]], %arg3, %arg5)
// CHECK: custom_call @nspjax.attend_start(
// CHECK-SAME: backend_config = {block_tokens = 32 : i64, budget = 2.500000e-01 : f32, mass = 0.899999976 : f32, read_ahead = 0 : i64, scale = 5.000000e-01 : f32, softcap = 0.000000e+00 : f32, window = 0 : i64}
// CHECK-NOT: @nspjax.prefetch
// CHECK: custom_call @nspjax.attend_start(
// CHECK-SAME: backend_config = {block_tokens = 0 : i64, budget = 1.000000e+00 : f32, mass = 1.000000e+00 : f32, read_ahead = 0 : i64, scale = 5.000000e-01 : f32, softcap = 0.000000e+00 : f32, window = 8 : i64}

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x1x4x8xf32>
!kv = tensor<2x1x2x8xf32>
!lse = tensor<2x1x4xf32>
func.func public @main(%x: !q, %k: !kv, %v: !kv, %rows: !i, %pos: !i, %len: !i, %k0: !h, %v0: !h, %k1: !h, %v1: !h) -> (!q, !h, !h, !h, !h) {
  %o:4 = "nsp.attend"(%k0, %v0, %x, %rows, %pos, %len) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, scale = 0.5 : f64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %y = stablehlo.add %o#0, %x : !q
  %p:4 = "nsp.attend"(%k1, %v1, %y, %rows, %pos, %len) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, scale = 0.5 : f64, window = 8 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  return %p#0, %o#2, %o#3, %p#2, %p#3 : !q, !h, !h, !h, !h
}
