// RUN: raise-attention,offload-kv,lower-to-ffi
// Raised, it goes to the store like any other: the caches are handles.

// CHECK-LABEL: func.func public @main
// CHECK-SAME: %arg3: tensor<4xi32>, %arg4: tensor<4xi32>
// CHECK: custom_call @nspjax.append
// CHECK: custom_call @nspjax.attend
// CHECK-NOT: tensor<2x16x2x8xf32>
func.func public @main(%q: tensor<2x1x4x8xf32>, %k: tensor<2x1x2x8xf32>, %v: tensor<2x1x2x8xf32>, %K: tensor<2x16x2x8xf32> {nspjax.kv_cache}, %V: tensor<2x16x2x8xf32> {nspjax.kv_cache}, %i: tensor<i32>) -> (tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>) {
  %0 = stablehlo.constant dense<0> : tensor<i32>
  %K1 = stablehlo.dynamic_update_slice %K, %k, %0, %i, %0, %0 : (tensor<2x16x2x8xf32>, tensor<2x1x2x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<2x16x2x8xf32>
  %V1 = stablehlo.dynamic_update_slice %V, %v, %0, %i, %0, %0 : (tensor<2x16x2x8xf32>, tensor<2x1x2x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<2x16x2x8xf32>
  %qg = stablehlo.reshape %q : (tensor<2x1x4x8xf32>) -> tensor<2x1x2x2x8xf32>
  %s = stablehlo.dot_general %qg, %K1, batching_dims = [0, 2] x [0, 2], contracting_dims = [4] x [3] : (tensor<2x1x2x2x8xf32>, tensor<2x16x2x8xf32>) -> tensor<2x2x1x2x16xf32>
  %half = stablehlo.constant dense<5.000000e-01> : tensor<2x2x1x2x16xf32>
  %t = stablehlo.multiply %s, %half : tensor<2x2x1x2x16xf32>
  %j = stablehlo.iota dim = 4 : tensor<2x2x1x2x16xi32>
  %at = stablehlo.broadcast_in_dim %i, dims = [] : (tensor<i32>) -> tensor<2x2x1x2x16xi32>
  %m = stablehlo.compare LE, %j, %at, SIGNED : (tensor<2x2x1x2x16xi32>, tensor<2x2x1x2x16xi32>) -> tensor<2x2x1x2x16xi1>
  %hidden = stablehlo.constant dense<-1.000000e+10> : tensor<2x2x1x2x16xf32>
  %x = stablehlo.select %m, %t, %hidden : tensor<2x2x1x2x16xi1>, tensor<2x2x1x2x16xf32>
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %top = stablehlo.reduce(%x init: %low) applies stablehlo.maximum across dimensions = [4] : (tensor<2x2x1x2x16xf32>, tensor<f32>) -> tensor<2x2x1x2xf32>
  %tb = stablehlo.broadcast_in_dim %top, dims = [0, 1, 2, 3] : (tensor<2x2x1x2xf32>) -> tensor<2x2x1x2x16xf32>
  %d = stablehlo.subtract %x, %tb : tensor<2x2x1x2x16xf32>
  %e = stablehlo.exponential %d : tensor<2x2x1x2x16xf32>
  %z = stablehlo.constant dense<0.000000e+00> : tensor<f32>
  %sum = stablehlo.reduce(%e init: %z) applies stablehlo.add across dimensions = [4] : (tensor<2x2x1x2x16xf32>, tensor<f32>) -> tensor<2x2x1x2xf32>
  %sb = stablehlo.broadcast_in_dim %sum, dims = [0, 1, 2, 3] : (tensor<2x2x1x2xf32>) -> tensor<2x2x1x2x16xf32>
  %p = stablehlo.divide %e, %sb : tensor<2x2x1x2x16xf32>
  %o = stablehlo.dot_general %p, %V1, batching_dims = [0, 1] x [0, 2], contracting_dims = [4] x [1] : (tensor<2x2x1x2x16xf32>, tensor<2x16x2x8xf32>) -> tensor<2x2x1x2x8xf32>
  %ot = stablehlo.transpose %o, dims = [0, 2, 1, 3, 4] : (tensor<2x2x1x2x8xf32>) -> tensor<2x1x2x2x8xf32>
  %out = stablehlo.reshape %ot : (tensor<2x1x2x2x8xf32>) -> tensor<2x1x4x8xf32>
  return %out, %K1, %V1 : tensor<2x1x4x8xf32>, tensor<2x16x2x8xf32>, tensor<2x16x2x8xf32>
}
