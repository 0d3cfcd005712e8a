// RUN: offload-kv
// Only one branch appends: both give back a handle.

// CHECK: %[[R:.+]]:2 = "stablehlo.case"
// CHECK: "nsp.append"
// CHECK: stablehlo.return %{{.+}}#2, %{{.+}}#3 : tensor<4xi32>, tensor<4xi32>
// CHECK: stablehlo.return %arg3, %arg4 : tensor<4xi32>, tensor<4xi32>
// CHECK: return %[[R]]#0, %[[R]]#1 : tensor<4xi32>, tensor<4xi32>
func.func public @main(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  %which = stablehlo.constant dense<0> : tensor<i32>
  %r:2 = "stablehlo.case"(%which) ({
    %0:3 = stablehlo.composite "nspjax.cached_attention" %q, %k, %v, %K, %V, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
    stablehlo.return %0#1, %0#2 : tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
  }, {
    stablehlo.return %K, %V : tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
  }) : (tensor<i32>) -> (tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
  return %r#0, %r#1 : tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}

func.func private @reference(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  return %q, %K, %V : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}
