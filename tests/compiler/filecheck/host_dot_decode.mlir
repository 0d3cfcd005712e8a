// RUN: host-dot
// REQUIRES: avx512-bf16
// Rows of any shape become rows of a matrix, and the result what it was. A matrix that is
// transposed first is read as it lies.

// CHECK-LABEL: func.func public @main
// CHECK: %[[X:.+]] = stablehlo.reshape %arg0 : (tensor<2x1x64xbf16>) -> tensor<2x64xbf16>
// CHECK: %[[Y:.+]] = "nsp.dot"(%[[X]], %arg1) {transposed = false} : (tensor<2x64xbf16>, tensor<64x96xbf16>) -> tensor<2x96xf32>
// CHECK: %[[Z:.+]] = stablehlo.reshape %[[Y]] : (tensor<2x96xf32>) -> tensor<2x1x96xf32>
// CHECK: %[[B:.+]] = stablehlo.convert %[[Z]] : (tensor<2x1x96xf32>) -> tensor<2x1x96xbf16>
// CHECK: %[[ROWS:.+]] = stablehlo.reshape %[[B]]
// CHECK: "nsp.dot"(%[[ROWS]], %arg2) {transposed = true} : (tensor<2x96xbf16>, tensor<128x96xbf16>) -> tensor<2x128xf32>
// CHECK: "nsp.dot"(%{{.+}}, %arg2) {transposed = true}
// CHECK-NOT: dot_general
func.func public @main(%x: tensor<2x1x64xbf16>, %w: tensor<64x96xbf16>, %head: tensor<128x96xbf16>) -> (tensor<2x1x128xf32>, tensor<2x1x128xf32>) {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [2] x [0] : (tensor<2x1x64xbf16>, tensor<64x96xbf16>) -> tensor<2x1x96xbf16>
  %1 = stablehlo.dot_general %0, %head, contracting_dims = [2] x [1] : (tensor<2x1x96xbf16>, tensor<128x96xbf16>) -> tensor<2x1x128xf32>
  %t = stablehlo.transpose %head, dims = [1, 0] : (tensor<128x96xbf16>) -> tensor<96x128xbf16>
  %2 = stablehlo.dot_general %0, %t, contracting_dims = [2] x [0] : (tensor<2x1x96xbf16>, tensor<96x128xbf16>) -> tensor<2x1x128xf32>
  return %1, %2 : tensor<2x1x128xf32>, tensor<2x1x128xf32>
}
