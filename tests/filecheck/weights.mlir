// PASSES: merge_linears hoist_weights dce
// q, k and v read one input: one product at run time, their weights side by side in @prepare.

func.func @step(%x: tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "x"}) -> (tensor<?x4xf32, #wl.dims<["T", 4]>> {wl.name = "q"}, tensor<?x2xf32, #wl.dims<["T", 2]>> {wl.name = "k"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %wq = "wl.param"() {name = "layer.q.weight", shape = [4, 8], dtype = "bf16"} : () -> tensor<4x8xbf16>
  %q = "wl.linear"(%x, %wq) {n = 4 : i64, layout = "row"} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<4x8xbf16>) -> tensor<?x4xf32, #wl.dims<["T", 4]>>
  %wk = "wl.param"() {name = "layer.k.weight", shape = [2, 8], dtype = "bf16"} : () -> tensor<2x8xbf16>
  %k = "wl.linear"(%x, %wk) {n = 2 : i64, layout = "row"} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<2x8xbf16>) -> tensor<?x2xf32, #wl.dims<["T", 2]>>
  return %q, %k : tensor<?x4xf32, #wl.dims<["T", 4]>>, tensor<?x2xf32, #wl.dims<["T", 2]>>
}

func.func @prepare() {
  %0 = "wl.checkpoint"() {name = "layer.q.weight", shape = [4, 8], dtype = "bf16"} : () -> tensor<4x8xbf16>
  "wl.export"(%0) {name = "layer.q.weight"} : (tensor<4x8xbf16>) -> ()
  %1 = "wl.checkpoint"() {name = "layer.k.weight", shape = [2, 8], dtype = "bf16"} : () -> tensor<2x8xbf16>
  "wl.export"(%1) {name = "layer.k.weight"} : (tensor<2x8xbf16>) -> ()
  return
}

// CHECK:      func.func @step(%[[X:.*]]: tensor<?x8xf32
// CHECK-NEXT:   %[[W:.*]] = "wl.param"() {dtype = "bf16", name = "[[NAME:.*]]", shape = [6, 8]}
// CHECK-NEXT:   %[[Y:.*]] = "wl.linear"(%[[X]], %[[W]]) {layout = "row", n = 6 : i64}
// CHECK-NEXT:   %[[Q:.*]] = "wl.slice"(%[[Y]]) {axis = 1 : i64, start = 0 : i64, stop = 4 : i64}
// CHECK-NEXT:   %[[K:.*]] = "wl.slice"(%[[Y]]) {axis = 1 : i64, start = 4 : i64, stop = 6 : i64}
// CHECK-NEXT:   return %[[Q]], %[[K]]
// CHECK:      func.func @prepare
// CHECK:        %[[BOTH:.*]] = "wl.concat"
// CHECK-NEXT:   "wl.export"(%[[BOTH]]) {name = "layer.{q,k}.weight"}
// CHECK-NOT:    wl.export
