// The attention of an artifact of 2026-11-22, 12:43, before `alibi`: lines of its ir/cuda.sm_90/00-trace.mlir.
module {
  func.func @step(%arg0: tensor<?x5x16xbf16, #wl.dims<["T", 5, 16]>> {wl.name = "q"}, %arg1: tensor<2x?x2x1x1024xbf16, #wl.dims<[2, "C", 2, 1, 1024]>> {wl.name = "kv"}, %arg2: tensor<?x?xi32, #wl.dims<["S", "P"]>> {wl.name = "page_table"}, %arg3: tensor<?xi32, #wl.dims<["S+1"]>> {wl.name = "query_start"}, %arg4: tensor<?xi32, #wl.dims<["S"]>> {wl.name = "context_lens"}) -> (tensor<?x5x16xbf16, #wl.dims<["T", 5, 16]>> {wl.name = "y"}) attributes {wl.dims = {C = array<i64: 1, 16777216, 1>, P = array<i64: 1, 3, 1>, S = array<i64: 1, 1024, 1>, T = array<i64: 1, 8192, 1>}} {
    %0 = "wl.attention"(%arg0, %arg1, %arg2, %arg3, %arg4) {k_layout = "token_major", layer = 0 : i64, page_size = 64 : i64, scale = 2.500000e-01 : f64, softcap = 0.000000e+00 : f64, window = 0 : i64} : (tensor<?x5x16xbf16, #wl.dims<["T", 5, 16]>>, tensor<2x?x2x1x1024xbf16, #wl.dims<[2, "C", 2, 1, 1024]>>, tensor<?x?xi32, #wl.dims<["S", "P"]>>, tensor<?xi32, #wl.dims<["S+1"]>>, tensor<?xi32, #wl.dims<["S"]>>) -> tensor<?x5x16xbf16, #wl.dims<["T", 5, 16]>>
    return %0 : tensor<?x5x16xbf16, #wl.dims<["T", 5, 16]>>
  }
}
