// PASSES: quantize_weights{rules=fp8} merge_linears quantize_activations hoist_weights dce
// Two projections of one input in FP8: numbers and scales side by side, made in @prepare; activations as they come.

func.func @step(%x: tensor<?x32xf32, #wl.dims<["T", 32]>> {wl.name = "x"}) -> (tensor<?x4xf32, #wl.dims<["T", 4]>> {wl.name = "q"}, tensor<?x2xf32, #wl.dims<["T", 2]>> {wl.name = "k"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %wq = "wl.param"() {name = "layer.q.weight", shape = [4, 32], dtype = "bf16"} : () -> tensor<4x32xbf16>
  %wk = "wl.param"() {name = "layer.k.weight", shape = [2, 32], dtype = "bf16"} : () -> tensor<2x32xbf16>
  %q = "wl.linear"(%x, %wq) {n = 4 : i64, layout = "row"} : (tensor<?x32xf32, #wl.dims<["T", 32]>>, tensor<4x32xbf16>) -> tensor<?x4xf32, #wl.dims<["T", 4]>>
  %k = "wl.linear"(%x, %wk) {n = 2 : i64, layout = "row"} : (tensor<?x32xf32, #wl.dims<["T", 32]>>, tensor<2x32xbf16>) -> tensor<?x2xf32, #wl.dims<["T", 2]>>
  return %q, %k : tensor<?x4xf32, #wl.dims<["T", 4]>>, tensor<?x2xf32, #wl.dims<["T", 2]>>
}

func.func @prepare() {
  %0 = "wl.checkpoint"() {name = "layer.q.weight", shape = [4, 32], dtype = "bf16"} : () -> tensor<4x32xbf16>
  "wl.export"(%0) {name = "layer.q.weight"} : (tensor<4x32xbf16>) -> ()
  %1 = "wl.checkpoint"() {name = "layer.k.weight", shape = [2, 32], dtype = "bf16"} : () -> tensor<2x32xbf16>
  "wl.export"(%1) {name = "layer.k.weight"} : (tensor<2x32xbf16>) -> ()
  return
}

// CHECK:      func.func @step(%[[X:.*]]: tensor<?x32xf32
// CHECK-DAG:    %[[Q:.*]] = "wl.param"() {dtype = "f8e4m3", name = "layer.{q,k}.weight:q", shape = [6, 32]}
// CHECK-DAG:    %[[S:.*]] = "wl.param"() {dtype = "f32", name = "layer.{q,k}.weight:scale", shape = [6, 1]}
// CHECK:        %[[N:.*]]:2 = "wl.quantize"(%[[X]]) {dtype = "f8e4m3", group = 0 : i64, scale_dtype = "f32"}
// CHECK-NEXT:   "wl.scaled_linear"(%[[N]]#0, %[[N]]#1, %[[Q]], %[[S]]) {dtype = "f32", layout = "row", n = 6 : i64}
// CHECK-NOT:    wl.linear
// CHECK:      func.func @prepare
// CHECK-COUNT-2: "wl.quantize"
