// RUN: offload-kv,offload-weights
// Layers in one function: it takes the handle and loads after its attention, in a copy for the calls
// that have one. The resident layer keeps the function as it is.

// CHECK-LABEL: func.func public @main
// CHECK-NOT: nsp.load
// CHECK: %[[A:.+]]:3 = call @layer.weights_1(%arg0, %arg1,
// CHECK: %[[B:.+]]:3 = call @layer(%[[A]]#0, %arg2,
// CHECK: call @layer.weights_1(%[[B]]#0, %arg3,
// CHECK: func.func private @layer(%arg0: tensor<2x1x4x8xf32>, %arg1: tensor<8x8xf32>,
// CHECK-NOT: nsp.load
// CHECK: func.func private @layer.weights_1(%arg0: tensor<2x1x4x8xf32>, %arg1: tensor<4xi32>,
// CHECK: %[[O:.+]]:4 = "nsp.attend"
// CHECK: %[[L:.+]] = "nsp.load"(%arg1, %[[O]]#0)
// CHECK-NEXT: stablehlo.dot_general %{{.+}}, %[[L]]
// CHECK-NOT: func.func private @layer.weights_1_
func.func public @main(%q: tensor<2x1x4x8xf32>, %w1: tensor<8x8xf32> {nspjax.stored_weight}, %w2: tensor<8x8xf32>, %w3: tensor<8x8xf32> {nspjax.stored_weight}, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  %a:3 = call @layer(%q, %w1, %k, %v, %K, %V, %rows, %start, %n_new) : (tensor<2x1x4x8xf32>, tensor<8x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  %b:3 = call @layer(%a#0, %w2, %k, %v, %a#1, %a#2, %rows, %start, %n_new) : (tensor<2x1x4x8xf32>, tensor<8x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  %c:3 = call @layer(%b#0, %w3, %k, %v, %b#1, %b#2, %rows, %start, %n_new) : (tensor<2x1x4x8xf32>, tensor<8x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  return %c#0, %c#1, %c#2 : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}
func.func private @layer(%x: tensor<2x1x4x8xf32>, %w: tensor<8x8xf32>, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  %0:3 = stablehlo.composite "nspjax.cached_attention" %x, %k, %v, %K, %V, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  %y = stablehlo.dot_general %0#0, %w, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
  return %y, %0#1, %0#2 : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}

func.func private @reference(%q: tensor<2x1x4x8xf32>, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  return %q, %K, %V : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}
