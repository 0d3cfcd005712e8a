// RUN: offload-kv
// The cache is carried by a loop: the carry becomes a handle.

// CHECK-LABEL: func.func public @main
// CHECK: stablehlo.while(%{{.+}} = %{{.+}}, %[[Q:.+]] = %arg0, %[[K:.+]] = %arg3, %[[V:.+]] = %arg4)
// CHECK-SAME: tensor<i32>, tensor<2x1x4x8xbf16>, tensor<4xi32>, tensor<4xi32>
// CHECK: do {
// CHECK: %[[A:.+]]:2 = "nsp.append"(%[[K]], %[[V]],
// CHECK: %[[O:.+]]:4 = "nsp.attend"(%[[A]]#0, %[[A]]#1, %[[Q]],
// CHECK: stablehlo.return %{{.+}}, %{{.+}}, %[[O]]#2, %[[O]]#3
func.func public @main(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %three = stablehlo.constant dense<3> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %r:4 = stablehlo.while(%i = %zero, %x = %q, %a = %K, %b = %V) : tensor<i32>, tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
  cond {
    %go = stablehlo.compare LT, %i, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %0:3 = stablehlo.composite "nspjax.cached_attention" %x, %k, %v, %a, %b, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %0#0, %0#1, %0#2 : tensor<i32>, tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
  }
  return %r#1, %r#2, %r#3 : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}

func.func private @reference(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  return %q, %K, %V : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}
