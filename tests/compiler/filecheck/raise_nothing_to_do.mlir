// RUN: raise-attention
// A dynamic_update_slice that no attention reads, and a call: all stays as it is.

// CHECK-LABEL: func.func public @main
// CHECK-NEXT: %[[A:.+]] = call @put(%arg0, %arg1, %arg2)
// CHECK-NEXT: return %[[A]]
// CHECK: stablehlo.dynamic_update_slice
func.func public @main(%K: tensor<2x16x2x8xf32>, %k: tensor<2x1x2x8xf32>, %i: tensor<i32>) -> tensor<2x16x2x8xf32> {
  %0 = call @put(%K, %k, %i) : (tensor<2x16x2x8xf32>, tensor<2x1x2x8xf32>, tensor<i32>) -> tensor<2x16x2x8xf32>
  return %0 : tensor<2x16x2x8xf32>
}
func.func private @put(%K: tensor<2x16x2x8xf32>, %k: tensor<2x1x2x8xf32>, %i: tensor<i32>) -> tensor<2x16x2x8xf32> {
  %0 = stablehlo.dynamic_update_slice %K, %k, %i, %i, %i, %i : (tensor<2x16x2x8xf32>, tensor<2x1x2x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<2x16x2x8xf32>
  return %0 : tensor<2x16x2x8xf32>
}
