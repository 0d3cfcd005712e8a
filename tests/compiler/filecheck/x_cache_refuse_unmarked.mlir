// RUN: offload-kv,x-cache{fraction=0.5}
// REFUSED: found no nspjax.project_kv that makes the k of the attention
!x = tensor<4x1x16xf32>
!w = tensor<16x16xf32>
!q = tensor<4x1x2x8xf32>
!c = tensor<4x32x2x8xf32>
!i = tensor<4xi32>
func.func public @main(%x0: !x, %wk: !w, %wv: !w, %n: !i, %l1: !i, %K: !c, %V: !c) -> (!x, !c, !c) {
  %rows = stablehlo.iota dim = 0 : !i
  %p1:2 = func.call @project(%x0, %wk, %wv) : (!x, !w, !w) -> (!x, !x)
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
