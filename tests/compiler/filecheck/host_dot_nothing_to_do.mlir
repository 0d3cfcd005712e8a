// RUN: host-dot{most-rows=4}
// More rows, other types, other sizes, batched products and products along other axes stay.

// CHECK-LABEL: func.func public @main
// CHECK-COUNT-6: stablehlo.dot_general
// CHECK-NOT: nsp.dot
func.func public @main(%five: tensor<5x64xbf16>, %two: tensor<2x64xbf16>, %w: tensor<64x96xbf16>, %f: tensor<64x96xf32>, %x: tensor<2x64xf32>, %odd: tensor<64x40xbf16>, %b: tensor<2x3x64xbf16>, %bw: tensor<2x64x96xbf16>, %down: tensor<64x2xbf16>, %cube: tensor<64x32x32xbf16>) -> (tensor<5x96xf32>, tensor<2x96xf32>, tensor<2x40xf32>, tensor<2x3x96xf32>, tensor<2x96xf32>, tensor<2x32x32xf32>) {
  %0 = stablehlo.dot_general %five, %w, contracting_dims = [1] x [0] : (tensor<5x64xbf16>, tensor<64x96xbf16>) -> tensor<5x96xf32>
  %1 = stablehlo.dot_general %x, %f, contracting_dims = [1] x [0] : (tensor<2x64xf32>, tensor<64x96xf32>) -> tensor<2x96xf32>
  %2 = stablehlo.dot_general %two, %odd, contracting_dims = [1] x [0] : (tensor<2x64xbf16>, tensor<64x40xbf16>) -> tensor<2x40xf32>
  %3 = stablehlo.dot_general %b, %bw, batching_dims = [0] x [0], contracting_dims = [2] x [1] : (tensor<2x3x64xbf16>, tensor<2x64x96xbf16>) -> tensor<2x3x96xf32>
  %4 = stablehlo.dot_general %down, %w, contracting_dims = [0] x [0] : (tensor<64x2xbf16>, tensor<64x96xbf16>) -> tensor<2x96xf32>
  %5 = stablehlo.dot_general %two, %cube, contracting_dims = [1] x [0] : (tensor<2x64xbf16>, tensor<64x32x32xbf16>) -> tensor<2x32x32xf32>
  return %0, %1, %2, %3, %4, %5 : tensor<5x96xf32>, tensor<2x96xf32>, tensor<2x40xf32>, tensor<2x3x96xf32>, tensor<2x96xf32>, tensor<2x32x32xf32>
}
