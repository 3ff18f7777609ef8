// PASSES: defer_norms hoist_weights dce simplify
// The gain of a norm goes into the weight, its 1 / rms behind the product; where others read the norm it stays.

func.func @step(%x: tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "x"}) -> (tensor<?x4xf32, #wl.dims<["T", 4]>> {wl.name = "y"}, tensor<?x4xf32, #wl.dims<["T", 4]>> {wl.name = "z"}, tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "n"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %g = "wl.param"() {name = "g", shape = [8], dtype = "f32"} : () -> tensor<8xf32>
  %w = "wl.param"() {name = "w", shape = [4, 8], dtype = "f32"} : () -> tensor<4x8xf32>
  %v = "wl.param"() {name = "v", shape = [4, 8], dtype = "f32"} : () -> tensor<4x8xf32>
  %0 = "wl.rms_norm"(%x, %g) {eps = 1.0e-5 : f64} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<8xf32>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %1 = "wl.linear"(%0, %w) {n = 4 : i64, layout = "row"} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<4x8xf32>) -> tensor<?x4xf32, #wl.dims<["T", 4]>>
  %2 = "wl.rms_norm"(%x, %g) {eps = 1.0e-6 : f64} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<8xf32>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %3 = "wl.linear"(%2, %v) {n = 4 : i64, layout = "row"} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<4x8xf32>) -> tensor<?x4xf32, #wl.dims<["T", 4]>>
  return %1, %3, %2 : tensor<?x4xf32, #wl.dims<["T", 4]>>, tensor<?x4xf32, #wl.dims<["T", 4]>>, tensor<?x8xf32, #wl.dims<["T", 8]>>
}

func.func @prepare() {
  %0 = "wl.checkpoint"() {name = "g", shape = [8], dtype = "f32"} : () -> tensor<8xf32>
  "wl.export"(%0) {name = "g"} : (tensor<8xf32>) -> ()
  %1 = "wl.checkpoint"() {name = "w", shape = [4, 8], dtype = "f32"} : () -> tensor<4x8xf32>
  "wl.export"(%1) {name = "w"} : (tensor<4x8xf32>) -> ()
  %2 = "wl.checkpoint"() {name = "v", shape = [4, 8], dtype = "f32"} : () -> tensor<4x8xf32>
  "wl.export"(%2) {name = "v"} : (tensor<4x8xf32>) -> ()
  return
}

// CHECK:      func.func @step(%[[X:.*]]: tensor<?x8xf32{{.*}}rms_norm: stays before what reads it: func.return reads it
// CHECK:        %[[SCALE:.*]] = "wl.rsqrt"
// CHECK:        %[[Y:.*]] = "wl.linear"(%[[X]], %{{.*}}) {layout = "row", n = 4 : i64}
// CHECK:        %[[ROWS:.*]] = "wl.broadcast"(%[[SCALE]])
// CHECK-NEXT:   %[[OUT:.*]] = "wl.mul"(%[[Y]], %[[ROWS]])
// CHECK:        %[[N:.*]] = "wl.rms_norm"
// CHECK:        %[[Z:.*]] = "wl.linear"(%[[N]]
// CHECK-NEXT:   return %[[OUT]], %[[Z]], %[[N]]
// CHECK:      func.func @prepare
// CHECK:        "wl.mul"
