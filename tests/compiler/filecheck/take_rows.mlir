// RUN: offload-kv,delay-writeback,prefetch,verify-schedule
// Rows that go on from one another, behind the attention of a decode step: the writeback and what is
// read ahead have handles that are good until then.

// CHECK-LABEL: func.func public @main(
// CHECK-SAME: %[[K0:[a-z0-9]+]]: tensor<4xi32>, %[[V0:[a-z0-9]+]]: tensor<4xi32>
// CHECK: %[[A:.+]]:2 = "nsp.append"(%[[K0]], %[[V0]]
// CHECK: %[[W:.+]] = "nsp.writeback"(%[[A]]#0, %[[A]]#1)
// CHECK: %[[P:.+]] = "nsp.prefetch"(%[[A]]#0, %[[A]]#1
// CHECK: %[[O:.+]]:4 = "nsp.attend"(%[[A]]#0, %[[A]]#1
// CHECK: %[[T:.+]]:2 = "nsp.take_rows"(%[[O]]#2, %[[O]]#3, %{{.+}}, %{{.+}}, %{{.*}}) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>}
// CHECK: return %{{.+}}, %[[T]]#0, %[[T]]#1

!q = tensor<2x1x4x8xf32>
!kv = tensor<2x1x2x8xf32>
!c = tensor<2x16x2x8xf32>
!i = tensor<2xi32>
func.func public @main(%q: !q, %k: !kv, %v: !kv, %rows: !i, %start: !i, %n: !i, %order: !i, %k0: !c, %v0: !c) -> (!q, !c, !c) {
  %m:3 = stablehlo.composite "nspjax.cached_attention" %q, %k, %v, %k0, %v0, %rows, %start, %n {composite_attributes = {all_rows = true, scale = 0.5 : f64, softcap = 0.0 : f64, window = 0 : i64}, decomposition = @attention, version = 1 : i32} : (!q, !kv, !kv, !c, !c, !i, !i, !i) -> (!q, !c, !c)
  %after = stablehlo.add %start, %n : !i
  %t:2 = stablehlo.composite "nspjax.take_rows" %m#1, %m#2, %order, %after {decomposition = @gather, version = 1 : i32} : (!c, !c, !i, !i) -> (!c, !c)
  return %m#0, %t#0, %t#1 : !q, !c, !c
}
func.func private @attention(%q: !q, %k: !kv, %v: !kv, %k0: !c, %v0: !c, %rows: !i, %start: !i, %n: !i) -> (!q, !c, !c) {
  return %q, %k0, %v0 : !q, !c, !c
}
func.func private @gather(%k: !c, %v: !c, %order: !i, %length: !i) -> (!c, !c) {
  return %k, %v : !c, !c
}
