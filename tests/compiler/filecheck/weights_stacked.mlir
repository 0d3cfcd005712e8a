// RUN: offload-kv,offload-weights
// All layers' weights in one array, of which each iteration takes a slice: it is loaded once, before
// the loop, not in every iteration. So is one that changes from one iteration to the next.

// CHECK-LABEL: func.func public @main
// CHECK: %[[L:.+]] = "nsp.load"(%arg1) : (tensor<4xi32>) -> tensor<3x8x8xf32>
// CHECK: %[[M:.+]] = "nsp.load"(%arg2) : (tensor<4xi32>) -> tensor<8x8xf32>
// CHECK: stablehlo.while(%{{.+}} = %{{.+}}, %{{.+}} = %arg0, %{{.+}} = %[[L]], %{{.+}} = %[[M]],
// CHECK-NOT: nsp.load
func.func public @main(%q: tensor<2x1x4x8xf32>, %w: tensor<3x8x8xf32> {nspjax.stored_weight}, %m: tensor<8x8xf32> {nspjax.stored_weight}, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %three = stablehlo.constant dense<3> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %r:6 = stablehlo.while(%i = %zero, %x = %q, %u = %w, %n = %m, %a = %K, %b = %V) : tensor<i32>, tensor<2x1x4x8xf32>, tensor<3x8x8xf32>, tensor<8x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
  cond {
    %go = stablehlo.compare LT, %i, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %0:3 = stablehlo.composite "nspjax.cached_attention" %x, %k, %v, %a, %b, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
    %s = stablehlo.dynamic_slice %u, %i, %zero, %zero, sizes = [1, 8, 8] : (tensor<3x8x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x8x8xf32>
    %l = stablehlo.reshape %s : (tensor<1x8x8xf32>) -> tensor<8x8xf32>
    %p = stablehlo.add %l, %n : tensor<8x8xf32>
  %y = stablehlo.dot_general %0#0, %p, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %y, %u, %p, %0#1, %0#2 : tensor<i32>, tensor<2x1x4x8xf32>, tensor<3x8x8xf32>, tensor<8x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
  }
  return %r#1, %r#4, %r#5 : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}

func.func private @reference(%q: tensor<2x1x4x8xf32>, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  return %q, %K, %V : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}
