// RUN: offload-kv,offload-weights,lower-to-ffi
// Arguments that are stored weights become handles; a load waits for what its user needs besides, and
// after the attention for its output. A resident weight stays what it is.

// CHECK-LABEL: func.func public @main
// CHECK-SAME: (%arg0: tensor<2x1x4x8xf32>, %arg1: tensor<4xi32>, %arg2: tensor<4xi32>, %arg3: tensor<8x8xf32>
// CHECK: %[[X:.+]] = stablehlo.tanh %arg0
// CHECK: %[[IN:.+]] = stablehlo.custom_call @nspjax.load(%arg1, %[[X]]) {{.*}} : (tensor<4xi32>, tensor<2x1x4x8xf32>) -> tensor<8x8xf32>
// CHECK-NEXT: stablehlo.dot_general %[[X]], %[[IN]]
// CHECK: %[[O:.+]]:4 = stablehlo.custom_call @nspjax.attend
// CHECK: %[[OUT:.+]] = stablehlo.custom_call @nspjax.load(%arg2, %[[O]]#0)
// CHECK-NEXT: %[[R:.+]] = stablehlo.dot_general %{{.+}}, %[[OUT]]
// CHECK-NEXT: stablehlo.dot_general %[[R]], %arg3
// CHECK-NOT: nspjax.load
// CHECK-NOT: stored_weight
func.func public @main(%q: tensor<2x1x4x8xf32>, %in: tensor<8x8xf32> {nspjax.stored_weight}, %out: tensor<8x8xf32> {nspjax.stored_weight}, %here: tensor<8x8xf32>, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  %t = stablehlo.tanh %q : tensor<2x1x4x8xf32>
  %x = stablehlo.dot_general %t, %in, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
  %0:3 = stablehlo.composite "nspjax.cached_attention" %x, %k, %v, %K, %V, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  %y = stablehlo.dot_general %0#0, %out, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
  %z = stablehlo.dot_general %y, %here, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
  return %z, %0#1, %0#2 : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}

func.func private @reference(%q: tensor<2x1x4x8xf32>, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  return %q, %K, %V : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}
