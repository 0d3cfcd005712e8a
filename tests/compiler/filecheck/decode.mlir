// RUN: offload-kv
// One new token a row: it is appended, then the store attends over all.

// CHECK-LABEL: func.func public @main
// CHECK-SAME: %[[Q:[^:]+]]: tensor<2x1x4x8xbf16>, %[[NEWK:[^:]+]]: tensor<2x1x2x8xbf16>, %[[NEWV:[^:]+]]: tensor<2x1x2x8xbf16>, %[[K:[^:]+]]: tensor<4xi32>, %[[V:[^:]+]]: tensor<4xi32>, %[[ROWS:[^:]+]]: tensor<2xi32>, %[[START:[^:]+]]: tensor<2xi32>, %[[N:[^:]+]]: tensor<2xi32>
// CHECK-SAME: -> (tensor<2x1x4x8xbf16>, tensor<4xi32>, tensor<4xi32>)
// CHECK: %[[LENGTH:.+]] = call @nsp.decode_length{{.*}}(%[[START]], %[[N]])
// CHECK: %[[A:.+]]:2 = "nsp.append"(%[[K]], %[[V]], %[[NEWK]], %[[NEWV]], %[[ROWS]], %[[START]], %[[N]]) {cache_dtype = "bf16", cache_shape = array<i64: 2, 16, 2, 8>, hold = false}
// CHECK: %[[O:.+]]:4 = "nsp.attend"(%[[A]]#0, %[[A]]#1, %[[Q]], %[[ROWS]], %[[START]], %[[LENGTH]]) {block_tokens = 0 : i64, budget = 1.000000e+00 : f64, cache_dtype = "bf16", cache_shape = array<i64: 2, 16, 2, 8>, mass = 1.000000e+00 : f64, read_ahead = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}
// CHECK: %[[OUT:.+]] = stablehlo.convert %[[O]]#0 : (tensor<2x1x4x8xf32>) -> tensor<2x1x4x8xbf16>
// CHECK: return %[[OUT]], %[[O]]#2, %[[O]]#3
// CHECK-NOT: @reference
func.func public @main(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  %0:3 = stablehlo.composite "nspjax.cached_attention" %q, %k, %v, %K, %V, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
  return %0#0, %0#1, %0#2 : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}

func.func private @reference(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  return %q, %K, %V : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}
