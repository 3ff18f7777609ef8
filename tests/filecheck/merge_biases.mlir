// PASSES: merge_linears hoist_weights dce
// q and k have biases: these lie side by side too, and are added once.

func.func @step(%x: tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "x"}) -> (tensor<?x4xf32, #wl.dims<["T", 4]>> {wl.name = "q"}, tensor<?x2xf32, #wl.dims<["T", 2]>> {wl.name = "k"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %wq = "wl.param"() {name = "q.weight", shape = [4, 8], dtype = "bf16"} : () -> tensor<4x8xbf16>
  %bq = "wl.param"() {name = "q.bias", shape = [4], dtype = "f32"} : () -> tensor<4xf32>
  %0 = "wl.linear"(%x, %wq) {n = 4 : i64, layout = "row"} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<4x8xbf16>) -> tensor<?x4xf32, #wl.dims<["T", 4]>>
  %1 = "wl.broadcast"(%bq) {shape = ["T", 4], dims = array<i64: 1>} : (tensor<4xf32>) -> tensor<?x4xf32, #wl.dims<["T", 4]>>
  %q = "wl.add"(%0, %1) : (tensor<?x4xf32, #wl.dims<["T", 4]>>, tensor<?x4xf32, #wl.dims<["T", 4]>>) -> tensor<?x4xf32, #wl.dims<["T", 4]>>
  %wk = "wl.param"() {name = "k.weight", shape = [2, 8], dtype = "bf16"} : () -> tensor<2x8xbf16>
  %bk = "wl.param"() {name = "k.bias", shape = [2], dtype = "f32"} : () -> tensor<2xf32>
  %2 = "wl.linear"(%x, %wk) {n = 2 : i64, layout = "row"} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<2x8xbf16>) -> tensor<?x2xf32, #wl.dims<["T", 2]>>
  %3 = "wl.broadcast"(%bk) {shape = ["T", 2], dims = array<i64: 1>} : (tensor<2xf32>) -> tensor<?x2xf32, #wl.dims<["T", 2]>>
  %k = "wl.add"(%3, %2) : (tensor<?x2xf32, #wl.dims<["T", 2]>>, tensor<?x2xf32, #wl.dims<["T", 2]>>) -> tensor<?x2xf32, #wl.dims<["T", 2]>>
  return %q, %k : tensor<?x4xf32, #wl.dims<["T", 4]>>, tensor<?x2xf32, #wl.dims<["T", 2]>>
}

func.func @prepare() {
  %0 = "wl.checkpoint"() {name = "q.weight", shape = [4, 8], dtype = "bf16"} : () -> tensor<4x8xbf16>
  "wl.export"(%0) {name = "q.weight"} : (tensor<4x8xbf16>) -> ()
  %1 = "wl.checkpoint"() {name = "k.weight", shape = [2, 8], dtype = "bf16"} : () -> tensor<2x8xbf16>
  "wl.export"(%1) {name = "k.weight"} : (tensor<2x8xbf16>) -> ()
  %2 = "wl.checkpoint"() {name = "q.bias", shape = [4], dtype = "f32"} : () -> tensor<4xf32>
  "wl.export"(%2) {name = "q.bias"} : (tensor<4xf32>) -> ()
  %3 = "wl.checkpoint"() {name = "k.bias", shape = [2], dtype = "f32"} : () -> tensor<2xf32>
  "wl.export"(%3) {name = "k.bias"} : (tensor<2xf32>) -> ()
  return
}

// CHECK:      func.func @step(%[[X:.*]]: tensor<?x8xf32
// CHECK-NEXT:   %[[W:.*]] = "wl.param"() {dtype = "bf16", name = "[[WEIGHT:.*]]", shape = [6, 8]}
// CHECK-NEXT:   %[[Y:.*]] = "wl.linear"(%[[X]], %[[W]]) {layout = "row", n = 6 : i64}
// CHECK-NEXT:   %[[B:.*]] = "wl.param"() {dtype = "f32", name = "[[BIAS:.*]]", shape = [6]}
// CHECK-NEXT:   %[[ROWS:.*]] = "wl.broadcast"(%[[B]])
// CHECK-NEXT:   %[[SUM:.*]] = "wl.add"(%[[Y]], %[[ROWS]])
// CHECK-NEXT:   %[[Q:.*]] = "wl.slice"(%[[SUM]]) {axis = 1 : i64, start = 0 : i64, stop = 4 : i64}
// CHECK-NEXT:   %[[K:.*]] = "wl.slice"(%[[SUM]]) {axis = 1 : i64, start = 4 : i64, stop = 6 : i64}
// CHECK-NEXT:   return %[[Q]], %[[K]]
