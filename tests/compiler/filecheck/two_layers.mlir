// RUN: offload-kv,lower-to-ffi
// Two caches through one nested function: its signature changes once, and each call keeps its own
// chain of handles.

// CHECK-LABEL: func.func public @main
// CHECK-SAME: %arg3: tensor<4xi32>, %arg4: tensor<4xi32>, %arg5: tensor<4xi32>, %arg6: tensor<4xi32>
// CHECK: %[[ONE:.+]]:3 = call @layer(%arg0, %arg1, %arg2, %arg3, %arg4
// CHECK: %[[TWO:.+]]:3 = call @layer(%[[ONE]]#0, %arg1, %arg2, %arg5, %arg6
// CHECK: return %[[TWO]]#0, %[[ONE]]#1, %[[ONE]]#2, %[[TWO]]#1, %[[TWO]]#2
// CHECK-LABEL: func.func private @layer
// CHECK-SAME: %arg3: tensor<4xi32>, %arg4: tensor<4xi32>
// CHECK: custom_call @nspjax.append({{.*}}) {api_version = 4 : i32, backend_config = {hold = 0 : i64}, has_side_effect = true
// CHECK: custom_call @nspjax.attend({{.*}}) {api_version = 4 : i32, backend_config = {block_tokens = 0 : i64, budget = 1.000000e+00 : f32, mass = 1.000000e+00 : f32, read_ahead = 1 : i64, scale = 3.535000e-01 : f32, softcap = 0.000000e+00 : f32, window = 0 : i64}, has_side_effect = true
// CHECK-SAME: operand_layouts = [dense<0> : tensor<1xindex>, dense<0> : tensor<1xindex>, dense<[3, 2, 1, 0]> : tensor<4xindex>
// CHECK-NOT: "nsp.
func.func public @main(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %K2: tensor<2x16x2x8xbf16>, %V2: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  %a:3 = call @layer(%q, %k, %v, %K, %V, %rows, %start, %n_new) : (tensor<2x1x4x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
  %b:3 = call @layer(%a#0, %k, %v, %K2, %V2, %rows, %start, %n_new) : (tensor<2x1x4x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
  return %b#0, %a#1, %a#2, %b#1, %b#2 : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}
func.func private @layer(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  %0:3 = stablehlo.composite "nspjax.cached_attention" %q, %k, %v, %K, %V, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
  return %0#0, %0#1, %0#2 : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}

func.func private @reference(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  return %q, %K, %V : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}
