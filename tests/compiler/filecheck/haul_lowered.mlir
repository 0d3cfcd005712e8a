// RUN: offload-kv,haul-kv{chunk-tokens=8},lower-to-ffi
// A loop that fetches: the handles go through it. Its end follows from the lengths.

// CHECK-LABEL: func.func public @main
// CHECK: %[[A:.+]]:2 = stablehlo.custom_call @nspjax.append
// CHECK: %[[O:.+]]:4 = call @nsp.haul_{{.+}}(%[[A]]#0, %[[A]]#1, %arg0, %arg5, %arg6,
// CHECK: return %{{.+}}, %[[O]]#2, %[[O]]#3
// CHECK: func.func private @nsp.haul_
// CHECK: %[[LAST:.+]] = stablehlo.reduce({{.*}}) applies stablehlo.maximum
// CHECK: stablehlo.while(%[[END:.+]] = %[[LAST]], %{{.+}} = %arg3
// CHECK: stablehlo.compare LT, %{{.+}}, %[[END]]
// CHECK: stablehlo.custom_call @nspjax.fetch(
// CHECK-SAME: n_tokens = 8 : i64, read_ahead = 1 : i64
// CHECK-SAME: -> (tensor<2x8x2x8xbf16>, tensor<2x8x2x8xbf16>, tensor<4xi32>, tensor<4xi32>)
// CHECK-NOT: "nsp.
func.func public @main(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  %0:3 = stablehlo.composite "nspjax.cached_attention" %q, %k, %v, %K, %V, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
  return %0#0, %0#1, %0#2 : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}

func.func private @reference(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  return %q, %K, %V : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}
