// RUN: offload-kv
// Several new tokens: the store attends over the old ones first, then takes the new ones; the
// compute device attends over the new ones and merges.

// CHECK-LABEL: func.func public @main
// CHECK: %[[STORED:.+]] = call @nsp.stored_length
// CHECK: %[[O:.+]]:4 = "nsp.attend"(%arg3, %arg4, %arg0, %arg5, %arg6, %[[STORED]])
// CHECK-SAME: window = 4 : i64
// CHECK: %[[A:.+]]:2 = "nsp.append"(%[[O]]#2, %[[O]]#3, %arg1, %arg2, %arg5, %arg6, %arg7)
// CHECK: %[[NEW:.+]]:2 = call @nsp.attend_new{{.*}}(%arg0, %arg1, %arg2, %arg7)
// CHECK: %[[OUT:.+]] = call @nsp.merge.bf16{{.*}}(%[[O]]#0, %[[O]]#1, %[[NEW]]#0, %[[NEW]]#1)
// CHECK: return %[[OUT]], %[[A]]#0, %[[A]]#1
// CHECK: func.func private @nsp.attend_new
// CHECK: func.func private @nsp.merge
func.func public @main(%q: tensor<2x5x4x8xbf16>, %k: tensor<2x5x2x8xbf16>, %v: tensor<2x5x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x5x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  %0:3 = stablehlo.composite "nspjax.cached_attention" %q, %k, %v, %K, %V, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 5.000000e-01 : f64, softcap = 0.000000e+00 : f64, window = 4 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x5x4x8xbf16>, tensor<2x5x2x8xbf16>, tensor<2x5x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x5x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
  return %0#0, %0#1, %0#2 : tensor<2x5x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}

func.func private @reference(%q: tensor<2x5x4x8xbf16>, %k: tensor<2x5x2x8xbf16>, %v: tensor<2x5x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x5x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  return %q, %K, %V : tensor<2x5x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}
