// RUN: host-dot,lower-to-ffi
// REQUIRES: avx512-bf16
// A custom call with row-major operands.

// CHECK-LABEL: func.func public @main
// CHECK-NEXT: stablehlo.custom_call @nspjax.dot(%arg0, %arg1)
// CHECK-SAME: transposed = 0 : i64
// CHECK-SAME: operand_layouts = [dense<[1, 0]> : tensor<2xindex>, dense<[1, 0]> : tensor<2xindex>]
func.func public @main(%x: tensor<2x64xbf16>, %w: tensor<64x96xbf16>) -> tensor<2x96xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<2x64xbf16>, tensor<64x96xbf16>) -> tensor<2x96xf32>
  return %0 : tensor<2x96xf32>
}
