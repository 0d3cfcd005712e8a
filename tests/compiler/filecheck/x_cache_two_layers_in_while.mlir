// RUN: offload-kv,x-cache{fraction=0.25}
// Layers alike share one function; positions may come from the length of another layer's cache, and
// weights through the loop.

// CHECK: stablehlo.while
// CHECK: do {
// CHECK: %[[H:.+]]:2 = "nsp.x_cache"(%[[K:[^,]+]], %[[V:[^)]+]])
// CHECK: %[[XA:.+]]:2 = "nsp.append"(%[[H]]#0,
// CHECK: %[[A:.+]]:2 = "nsp.append"(%[[K]], %[[V]],
// CHECK: call @[[F:nsp.attend_x_nsp.recompute_kv.0_3_[^(]+]](%[[XA]]#0,
// CHECK: "nsp.x_cache"
// CHECK: call @[[F]](
// CHECK: func.func private @nsp.recompute_kv.0(
// CHECK-NOT: func.func private @nsp.recompute_kv.1(

!x = tensor<4x1x16xf32>
!w = tensor<16x16xf32>
!q = tensor<4x1x2x8xf32>
!c = tensor<4x32x2x8xf32>
!i = tensor<4xi32>
func.func public @main(%x0: !x, %wk: !w, %wv: !w, %n: !i, %l1: !i, %l2: !i, %K: !c, %V: !c, %K2: !c, %V2: !c, %go: tensor<i1>) -> (!x, !c, !c, !c, !c) {
  %rows = stablehlo.iota dim = 0 : !i
  %r:9 = stablehlo.while(%x = %x0, %ka = %K, %va = %V, %kb = %K2, %vb = %V2, %la = %l1, %lb = %l2, %wa = %wk, %wb = %wv) : !x, !c, !c, !c, !c, !i, !i, !w, !w
  cond {
    stablehlo.return %go : tensor<i1>
  } do {
    %p1:2 = stablehlo.composite "nspjax.project_kv" %x, %wa, %wb {decomposition = @project, version = 1 : i32} : (!x, !w, !w) -> (!x, !x)
    %k1 = stablehlo.reshape %p1#0 : (!x) -> !q
    %v1 = stablehlo.reshape %p1#1 : (!x) -> !q
    %f1 = stablehlo.convert %la : (!i) -> tensor<4xf32>
    %b1 = stablehlo.broadcast_in_dim %f1, dims = [0] : (tensor<4xf32>) -> !q
    %t1 = stablehlo.multiply %k1, %b1 : !q
    %q1 = stablehlo.reshape %x : (!x) -> !q
    %o1:3 = stablehlo.composite "nspjax.cached_attention" %q1, %t1, %v1, %ka, %va, %rows, %la, %n {
      composite_attributes = {all_rows = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
    } : (!q, !q, !q, !c, !c, !i, !i, !i) -> (!q, !c, !c)
    %y1 = stablehlo.reshape %o1#0 : (!q) -> !x
    %p2:2 = stablehlo.composite "nspjax.project_kv" %y1, %wa, %wb {decomposition = @project, version = 1 : i32} : (!x, !w, !w) -> (!x, !x)
    %k2 = stablehlo.reshape %p2#0 : (!x) -> !q
    %v2 = stablehlo.reshape %p2#1 : (!x) -> !q
    %f2 = stablehlo.convert %la : (!i) -> tensor<4xf32>
    %b2 = stablehlo.broadcast_in_dim %f2, dims = [0] : (tensor<4xf32>) -> !q
    %t2 = stablehlo.multiply %k2, %b2 : !q
    %q2 = stablehlo.reshape %y1 : (!x) -> !q
    %o2:3 = stablehlo.composite "nspjax.cached_attention" %q2, %t2, %v2, %kb, %vb, %rows, %lb, %n {
      composite_attributes = {all_rows = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
    } : (!q, !q, !q, !c, !c, !i, !i, !i) -> (!q, !c, !c)
    %y2 = stablehlo.reshape %o2#0 : (!q) -> !x
    %l3 = stablehlo.add %la, %n : !i
    %l4 = stablehlo.add %lb, %n : !i
    stablehlo.return %y2, %o1#1, %o1#2, %o2#1, %o2#2, %l3, %l4, %wa, %wb : !x, !c, !c, !c, !c, !i, !i, !w, !w
  }
  return %r#0, %r#1, %r#2, %r#3, %r#4 : !x, !c, !c, !c, !c
}
func.func private @project(%x: !x, %wk: !w, %wv: !w) -> (!x, !x) {
  %k = stablehlo.dot_general %x, %wk, contracting_dims = [2] x [0] : (!x, !w) -> !x
  %v = stablehlo.dot_general %x, %wv, contracting_dims = [2] x [0] : (!x, !w) -> !x
  return %k, %v : !x, !x
}
func.func private @reference(%q: !q, %k: !q, %v: !q, %K: !c, %V: !c, %rows: !i, %start: !i, %n: !i) -> (!q, !c, !c) {
  return %q, %K, %V : !q, !c, !c
}
