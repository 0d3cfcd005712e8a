// RUN: offload-kv,offload-weights
// A loop that attends carries the handle and loads in its body; one that does not uses the value.

// CHECK-LABEL: func.func public @main
// CHECK: stablehlo.while(%{{.+}} = %{{.+}}, %[[Q:.+]] = %arg0, %[[W:.+]] = %arg1, %{{.+}} = %{{.+}}, %{{.+}} = %{{.+}})
// CHECK-SAME: tensor<i32>, tensor<2x1x4x8xf32>, tensor<4xi32>, tensor<4xi32>, tensor<4xi32>
// CHECK: do {
// CHECK: %[[O:.+]]:4 = "nsp.attend"
// CHECK: %[[L:.+]] = "nsp.load"(%[[W]], %[[O]]#0) : (tensor<4xi32>, tensor<2x1x4x8xf32>) -> tensor<8x8xf32>
// CHECK-NEXT: stablehlo.dot_general %{{.+}}, %[[L]]
// CHECK: stablehlo.return %{{.+}}, %{{.+}}, %[[W]],
// CHECK: %[[TWO:.+]] = "nsp.load"(%arg1, %{{.+}}#1)
// CHECK-NEXT: stablehlo.while(%{{.+}} = %{{.+}}, %{{.+}} = %{{.+}}#1, %{{.+}} = %[[TWO]])
// CHECK-NOT: nsp.load
func.func public @main(%q: tensor<2x1x4x8xf32>, %w: tensor<8x8xf32> {nspjax.stored_weight}, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %three = stablehlo.constant dense<3> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %r:5 = stablehlo.while(%i = %zero, %x = %q, %u = %w, %a = %K, %b = %V) : tensor<i32>, tensor<2x1x4x8xf32>, tensor<8x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
  cond {
    %go = stablehlo.compare LT, %i, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %0:3 = stablehlo.composite "nspjax.cached_attention" %x, %k, %v, %a, %b, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xf32>, tensor<2x1x2x8xf32>, tensor<2x1x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>)
  %y = stablehlo.dot_general %0#0, %u, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %y, %u, %0#1, %0#2 : tensor<i32>, tensor<2x1x4x8xf32>, tensor<8x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
  }
  %s:3 = stablehlo.while(%i = %zero, %x = %r#1, %u = %r#2) : tensor<i32>, tensor<2x1x4x8xf32>, tensor<8x8xf32>
  cond {
    %go = stablehlo.compare LT, %i, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
  %y = stablehlo.dot_general %x, %u, contracting_dims = [3] x [0] : (tensor<2x1x4x8xf32>, tensor<8x8xf32>) -> tensor<2x1x4x8xf32>
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %y, %u : tensor<i32>, tensor<2x1x4x8xf32>, tensor<8x8xf32>
  }
  return %s#1, %r#3, %r#4 : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}

func.func private @reference(%q: tensor<2x1x4x8xf32>, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32>, %V: tensor<2x16x2x8xf32>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  return %q, %K, %V : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}
