// RUN: offload-weights
// Each block that uses a weight loads it; what only rearranges it is sunk to its first user, and the
// load with it.

// CHECK-LABEL: func.func public @main(%arg0: tensor<4xi32>
// CHECK-NOT: nsp.load
// CHECK: "stablehlo.case"
// CHECK-NEXT: %[[Y:.+]] = stablehlo.tanh %arg1
// CHECK-NEXT: %[[L:.+]] = "nsp.load"(%arg0)
// CHECK-NEXT: stablehlo.dot_general %[[Y]], %[[L]]
// CHECK: }, {
// CHECK-NOT: nsp.load
// CHECK: %[[Z:.+]] = stablehlo.negate
// CHECK-NEXT: %[[M:.+]] = "nsp.load"(%arg0, %[[Z]])
// CHECK-NEXT: %[[T:.+]] = stablehlo.transpose %[[M]]
// CHECK-NEXT: stablehlo.dot_general %[[Z]], %[[T]]
// CHECK-NOT: nsp.load
func.func public @main(%w: tensor<8x8xf32> {nspjax.stored_weight}, %x: tensor<2x8xf32>, %which: tensor<i32>) -> tensor<2x8xf32> {
  %t = stablehlo.transpose %w, dims = [1, 0] : (tensor<8x8xf32>) -> tensor<8x8xf32>
  %r = "stablehlo.case"(%which) ({
    %y = stablehlo.tanh %x : tensor<2x8xf32>
    %0 = stablehlo.dot_general %y, %w, contracting_dims = [1] x [0] : (tensor<2x8xf32>, tensor<8x8xf32>) -> tensor<2x8xf32>
    stablehlo.return %0 : tensor<2x8xf32>
  }, {
    stablehlo.return %x : tensor<2x8xf32>
  }) : (tensor<i32>) -> tensor<2x8xf32>
  %z = stablehlo.negate %r : tensor<2x8xf32>
  %1 = stablehlo.dot_general %z, %t, contracting_dims = [1] x [0] : (tensor<2x8xf32>, tensor<8x8xf32>) -> tensor<2x8xf32>
  return %1 : tensor<2x8xf32>
}
