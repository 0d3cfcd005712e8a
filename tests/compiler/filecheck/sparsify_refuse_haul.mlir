// RUN: haul-kv,sparsify
// REFUSED: brings all of K and V to the compute device: take sparsify or haul-kv, not both

!h = tensor<4xi32>
!i = tensor<2xi32>
!q = tensor<2x1x4x8xf32>
!lse = tensor<2x1x4xf32>
func.func public @main(%x: !q, %rows: !i, %pos: !i, %len: !i, %k0: !h, %v0: !h) -> (!q, !h, !h) {
  %o:4 = "nsp.attend"(%k0, %v0, %x, %rows, %pos, %len) {cache_dtype = "f32", cache_shape = array<i64: 2, 16, 2, 8>, scale = 0.5 : f64} : (!h, !h, !q, !i, !i, !i) -> (!q, !lse, !h, !h)
  return %o#0, %o#2, %o#3 : !q, !h, !h
}
