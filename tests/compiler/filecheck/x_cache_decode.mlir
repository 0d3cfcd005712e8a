// RUN: offload-kv,x-cache{fraction=0.5 chunk-tokens=8}
// Rows 2 and 3 have X: K and V of the others go to the cache, X to its companion; attention over X
// does not need the store's. A recomputed token is a batch row at its own position.

// CHECK-LABEL: func.func public @main
// CHECK-SAME: %[[X:arg0]]: tensor<4x1x16xf32>, %[[WK:arg1]]: tensor<16x16xf32>, %[[WV:arg2]]: tensor<16x16xf32>, %[[N:arg3]]: tensor<4xi32>, %[[L:arg4]]: tensor<4xi32>, %[[K:arg5]]: tensor<4xi32>
// CHECK: %[[H:.+]]:2 = "nsp.x_cache"(%[[K]], %{{.+}}) {cache_dtype = "f32", cache_shape = array<i64: 4, 32, 2, 8>, head_dim = 8 : i64, n_heads = 1 : i64}
// CHECK: %[[HALF:.+]]:2 = call @nsp.split_x{{.*}}(%[[X]])
// CHECK: %[[NX:.+]] = call @nsp.for_x_rows_2{{.*}}, %[[N]])
// CHECK: %[[NKV:.+]] = call @nsp.for_kv_rows_2{{.*}}, %[[N]])
// CHECK: %[[XA:.+]]:2 = "nsp.append"(%[[H]]#0, %[[H]]#1, %[[HALF]]#0, %[[HALF]]#1, %{{.+}}, %[[L]], %[[NX]]) {cache_dtype = "f32", cache_shape = array<i64: 4, 32, 1, 8>
// CHECK: %[[A:.+]]:2 = "nsp.append"(%[[K]], %{{.+}}, %[[NKV]], %[[XA]]#0)
// CHECK: %[[P:.+]]:4 = call @nsp.attend_x{{.*}}(%[[XA]]#0, %[[XA]]#1, %{{.+}}, %[[WK]], %[[WV]])
// CHECK: %[[O:.+]]:4 = "nsp.attend"(%[[A]]#0, %[[A]]#1,
// CHECK: %[[OUT:.+]]:2 = call @nsp.join_rows{{.*}}(%[[O]]#0, %[[O]]#1, %[[P]]#0, %[[P]]#1)
// CHECK: return %{{.+}}, %[[O]]#2, %[[O]]#3
// CHECK: func.func private @nsp.recompute_kv.0(%[[RX:arg0]]: tensor<16x1x16xf32>, %[[AT:arg1]]: tensor<16xi32>, %[[RK:arg2]]: tensor<16x16xf32>, %[[RV:arg3]]: tensor<16x16xf32>)
// CHECK-DAG: stablehlo.convert %[[AT]] : (tensor<16xi32>) -> tensor<16xf32>
// CHECK-DAG: stablehlo.dot_general %[[RX]], %[[RK]]
// CHECK-DAG: stablehlo.dot_general %[[RX]], %[[RV]]

!x = tensor<4x1x16xf32>
!w = tensor<16x16xf32>
!q = tensor<4x1x2x8xf32>
!c = tensor<4x32x2x8xf32>
!i = tensor<4xi32>
func.func public @main(%x0: !x, %wk: !w, %wv: !w, %n: !i, %l1: !i, %K: !c, %V: !c) -> (!x, !c, !c) {
  %rows = stablehlo.iota dim = 0 : !i
  %p1:2 = stablehlo.composite "nspjax.project_kv" %x0, %wk, %wv {decomposition = @project, version = 1 : i32} : (!x, !w, !w) -> (!x, !x)
  %k1 = stablehlo.reshape %p1#0 : (!x) -> !q
  %v1 = stablehlo.reshape %p1#1 : (!x) -> !q
  %f1 = stablehlo.convert %l1 : (!i) -> tensor<4xf32>
  %b1 = stablehlo.broadcast_in_dim %f1, dims = [0] : (tensor<4xf32>) -> !q
  %t1 = stablehlo.multiply %k1, %b1 : !q
  %q1 = stablehlo.reshape %x0 : (!x) -> !q
  %o1:3 = stablehlo.composite "nspjax.cached_attention" %q1, %t1, %v1, %K, %V, %rows, %l1, %n {
    composite_attributes = {all_rows = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (!q, !q, !q, !c, !c, !i, !i, !i) -> (!q, !c, !c)
  %y1 = stablehlo.reshape %o1#0 : (!q) -> !x
  return %y1, %o1#1, %o1#2 : !x, !c, !c
}
func.func private @project(%x: !x, %wk: !w, %wv: !w) -> (!x, !x) {
  %k = stablehlo.dot_general %x, %wk, contracting_dims = [2] x [0] : (!x, !w) -> !x
  %v = stablehlo.dot_general %x, %wv, contracting_dims = [2] x [0] : (!x, !w) -> !x
  return %k, %v : !x, !x
}
func.func private @reference(%q: !q, %k: !q, %v: !q, %K: !c, %V: !c, %rows: !i, %start: !i, %n: !i) -> (!q, !c, !c) {
  return %q, %K, %V : !q, !c, !c
}
