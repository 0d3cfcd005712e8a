// RUN: offload-kv,offload-weights{keep=1}
// A weight that is used again and again is loaded anew when more than `keep` attentions were between.

// CHECK: %[[A:.+]]:4 = "nsp.attend"
// CHECK: %[[L:.+]] = "nsp.load"(%arg1, %[[A]]#0)
// CHECK: dot_general %{{.+}}, %[[L]]
// CHECK: "nsp.attend"
// CHECK: dot_general %{{.+}}, %[[L]]
// CHECK: %[[C:.+]]:4 = "nsp.attend"
// CHECK: %[[M:.+]] = "nsp.load"(%arg1, %[[C]]#0)
// CHECK: dot_general %{{.+}}, %[[M]]
// CHECK: "nsp.attend"
// CHECK: dot_general %{{.+}}, %[[M]]
// CHECK-NOT: nsp.load
func.func public @main(%q: tensor<2x1x4x8xf32>, %w: tensor<8x8xf32> {nspjax.stored_weight}, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  %m0:3 = stablehlo.composite "nspjax.cached_attention" %q, %k, %v, %K, %V, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  %x0 = stablehlo.dot_general %m0#0, %w, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
  %m1:3 = stablehlo.composite "nspjax.cached_attention" %x0, %k, %v, %m0#1, %m0#2, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  %x1 = stablehlo.dot_general %m1#0, %w, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
  %m2:3 = stablehlo.composite "nspjax.cached_attention" %x1, %k, %v, %m1#1, %m1#2, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  %x2 = stablehlo.dot_general %m2#0, %w, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
  %m3:3 = stablehlo.composite "nspjax.cached_attention" %x2, %k, %v, %m2#1, %m2#2, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  %x3 = stablehlo.dot_general %m3#0, %w, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
  return %x3, %m3#1, %m3#2 : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}

func.func private @reference(%q: tensor<2x1x4x8xf32>, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  return %q, %K, %V : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}
