// RUN: offload-kv,split-attention,delay-writeback,prefetch
// In a loop the only layer is also the next one.

// CHECK: do {
// CHECK: %[[LENGTH:.+]] = func.call @nsp.decode_length
// CHECK: %[[A:.+]]:2 = "nsp.append"(%iterArg{{.*}} hold = true
// CHECK-NEXT: "nsp.writeback"(%[[A]]#0, %[[A]]#1) {cache_dtype = "bf16", cache_shape = array<i64: 2, 16, 2, 8>, exclusive = false, interval_tokens = 16 : i64}
// CHECK-NEXT: %[[P:.+]] = "nsp.prefetch"(%[[A]]#0, %[[A]]#1, %arg5, %[[LENGTH]]) {cache_dtype = "bf16", cache_shape = array<i64: 2, 16, 2, 8>, most_bytes = 0 : i64}
// CHECK-NEXT: %[[S:.+]]:3 = "nsp.attend_start"(%[[A]]#0, %[[A]]#1, {{.*}}, %[[LENGTH]], %[[P]]) {{.*}} read_ahead = false
// CHECK-NEXT: "nsp.attend_wait"(%[[S]]#0)
// CHECK: stablehlo.return %{{.+}}, %{{.+}}, %[[S]]#1, %[[S]]#2

func.func public @main(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %three = stablehlo.constant dense<3> : tensor<i32>
  %one = stablehlo.constant dense<1> : tensor<i32>
  %r:4 = stablehlo.while(%i = %zero, %x = %q, %a = %K, %b = %V) : tensor<i32>, tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
  cond {
    %go = stablehlo.compare LT, %i, %three : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %go : tensor<i1>
  } do {
    %0:3 = stablehlo.composite "nspjax.cached_attention" %x, %k, %v, %a, %b, %rows, %start, %n_new {
    composite_attributes = {all_rows = true, scale = 3.535000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64}, decomposition = @reference, version = 1 : i32
  } : (tensor<2x1x4x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x1x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2xi32>, tensor<2xi32>, tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>)
    %next = stablehlo.add %i, %one : tensor<i32>
    stablehlo.return %next, %0#0, %0#1, %0#2 : tensor<i32>, tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
  }
  return %r#1, %r#2, %r#3 : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}

func.func private @reference(%q: tensor<2x1x4x8xbf16>, %k: tensor<2x1x2x8xbf16>, %v: tensor<2x1x2x8xbf16>, %K: tensor<2x16x2x8xbf16>, %V: tensor<2x16x2x8xbf16>, %rows: tensor<2xi32>, %start: tensor<2xi32>, %n_new: tensor<2xi32>) -> (tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>) {
  return %q, %K, %V : tensor<2x1x4x8xbf16>, tensor<2x16x2x8xbf16>, tensor<2x16x2x8xbf16>
}
