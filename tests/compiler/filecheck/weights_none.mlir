// RUN: offload-weights
// No argument is a stored weight: nothing changes.

// CHECK-LABEL: func.func public @main(%arg0: tensor<8x8xf32>, %arg1: tensor<2x8xf32>
// CHECK-NEXT: stablehlo.dot_general %arg1, %arg0
// CHECK-NOT: nsp.
func.func public @main(%w: tensor<8x8xf32>, %x: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %1 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x8xf32>, tensor<8x8xf32>) -> tensor<2x8xf32>
  return %1 : tensor<2x8xf32>
}
