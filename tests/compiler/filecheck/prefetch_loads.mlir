// RUN: prefetch
// Weights of the next layer; behind the last one come the head's and those of the next step.

// CHECK: %[[P:.+]] = "nsp.prefetch"(%arg9, %arg10,
// CHECK-NEXT: %[[L:.+]] = "nsp.load_ahead"(%arg12, %[[P]])
// CHECK-NEXT: %[[O:.+]]:4 = "nsp.attend"({{.*}}, %[[L]])
// CHECK: "nsp.load"(%arg12, %[[L]])
// CHECK: %[[P2:.+]] = "nsp.prefetch"(%[[O]]#2, %[[O]]#3,
// CHECK-NEXT: %[[L2:.+]] = "nsp.load_ahead"(%arg13, %[[P2]])
// CHECK-NEXT: %[[L3:.+]] = "nsp.load_ahead"(%arg11, %[[L2]])
// CHECK-NEXT: "nsp.attend"({{.*}}, %[[L3]])
// CHECK: "nsp.load"(%arg13, %[[L2]])

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x1x4x8xf32>
!kv = tensor<2x1x2x8xf32>
!lse = tensor<2x1x4xf32>
!x = tensor<2x32xf32>
!w = tensor<32x32xf32>
func.func public @main(%k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %len: !i, %x: !x, %k0: !h, %v0: !h, %k1: !h, %v1: !h, %w0: !h, %w1: !h, %w2: !h) -> (!x, !h, !h, !h, !h) {
  %a = "nsp.load"(%w0) : (!h) -> !w
  %x0 = stablehlo.dot_general %x, %a, contracting_dims = [1] x [0] : (!x, !w) -> !x
  %q0 = stablehlo.reshape %x0 : (!x) -> !q
  %o:4 = "nsp.attend"(%k0, %v0, %q0, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %y0 = stablehlo.reshape %o#0 : (!q) -> !x
  %b = "nsp.load"(%w1) : (!h) -> !w
  %x1 = stablehlo.dot_general %y0, %b, contracting_dims = [1] x [0] : (!x, !w) -> !x
  %q1 = stablehlo.reshape %x1 : (!x) -> !q
  %p:4 = "nsp.attend"(%k1, %v1, %q1, %rows, %start, %len) {block_tokens = 0 : i64, budget = 1.0 : f64, cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.0 : f64, read_ahead = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  %y1 = stablehlo.reshape %p#0 : (!q) -> !x
  %c = "nsp.load"(%w2) : (!h) -> !w
  %x2 = stablehlo.dot_general %y1, %c, contracting_dims = [1] x [0] : (!x, !w) -> !x
  return %x2, %o#2, %o#3, %p#2, %p#3 : !x, !h, !h, !h, !h
}
