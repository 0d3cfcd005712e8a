// RUN: prefetch{distance=2}
// Two layers ahead, and around the end.

// CHECK: "nsp.prefetch"(%arg11, %arg12,
// CHECK-NEXT: %[[O:.+]]:4 = "nsp.attend"(%arg7,
// CHECK-NEXT: "nsp.prefetch"(%[[O]]#2, %[[O]]#3,
// CHECK-NEXT: %[[P:.+]]:4 = "nsp.attend"(%arg9,
// CHECK-NEXT: "nsp.prefetch"(%[[P]]#2, %[[P]]#3,
// CHECK-NEXT: "nsp.attend"(%arg11,

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x1x4x8xf32>
!kv = tensor<2x1x2x8xf32>
!lse = tensor<2x1x4xf32>
!x = tensor<2x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %x: !q, %k0: !h, %v0: !h, %k1: !h, %v1: !h, %k2: !h, %v2: !h) -> (!q, !h, !h, !h, !h, !h, !h) {
  %o0:4 = "nsp.attend"(%k0, %v0, %x, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %o1:4 = "nsp.attend"(%k1, %v1, %o0#0, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %o2:4 = "nsp.attend"(%k2, %v2, %o1#0, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  return %o2#0, %o0#2, %o0#3, %o1#2, %o1#3, %o2#2, %o2#3 : !q, !h, !h, !h, !h, !h, !h
}
