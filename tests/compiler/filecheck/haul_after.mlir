// RUN: lower-to-ffi
// What only says what must have happened before goes to every fetch.

// CHECK-LABEL: func.func public @main
// CHECK: call @nsp.haul_{{.+}}(%arg0, %arg1, %arg2, %arg3, %arg4, %arg5, %arg6)
// CHECK: stablehlo.while({{.*}} = %arg6
// CHECK: @nspjax.fetch({{.*}}) {{.*}} (tensor<4xi32>, tensor<4xi32>, tensor<2xi32>, tensor<1xi32>, tensor<2xi32>, tensor<1xi32>) -> (tensor<2x4x2x8xf32>
func.func public @main(%K: tensor<4xi32>, %V: tensor<4xi32>, %q: tensor<2x1x4x8xf32>, %rows: tensor<2xi32>, %position: tensor<2xi32>, %length: tensor<2xi32>, %token: tensor<1xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x1x4xf32>, tensor<4xi32>, tensor<4xi32>) {
  %0:4 = "nsp.haul"(%K, %V, %q, %rows, %position, %length, %token) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, chunk_tokens = 4 : i64, read_ahead = false, scale = 0.5 : f64, softcap = 0.0 : f64, window = 3 : i64} : (tensor<4xi32>, tensor<4xi32>, tensor<2x1x4x8xf32>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>, tensor<1xi32>) -> (tensor<2x1x4x8xf32>, tensor<2x1x4xf32>, tensor<4xi32>, tensor<4xi32>)
  return %0#0, %0#1, %0#2, %0#3 : tensor<2x1x4x8xf32>, tensor<2x1x4xf32>, tensor<4xi32>, tensor<4xi32>
}
