// RUN: haul-kv,lower-to-ffi
// A module without attention stays as it is.

// CHECK-LABEL: func.func public @main
// CHECK-SAME: (%[[X:.+]]: tensor<2x16x2x8xbf16>) -> tensor<2x16x2x8xbf16>
// CHECK-NEXT: %[[Y:.+]] = stablehlo.add %[[X]], %[[X]] : tensor<2x16x2x8xbf16>
// CHECK-NEXT: return %[[Y]]
func.func public @main(%x: tensor<2x16x2x8xbf16>) -> tensor<2x16x2x8xbf16> {
  %0 = stablehlo.add %x, %x : tensor<2x16x2x8xbf16>
  return %0 : tensor<2x16x2x8xbf16>
}
