// PASSES: fuse_heroes
// A linear takes the norm before it and the residual after it; two equal layers share one group.

func.func @step(%x: tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "x"}) -> (tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "y"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %g = "wl.param"() {name = "g", shape = [8], dtype = "f32"} : () -> tensor<8xf32>
  %w = "wl.param"() {name = "w", shape = [8, 8], dtype = "bf16"} : () -> tensor<8x8xbf16>
  %v = "wl.param"() {name = "v", shape = [8, 8], dtype = "bf16"} : () -> tensor<8x8xbf16>
  %0 = "wl.rms_norm"(%x, %g) {eps = 1.0e-5 : f64} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<8xf32>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %1 = "wl.linear"(%0, %w) {n = 8 : i64, layout = "row"} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<8x8xbf16>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %2 = "wl.add"(%x, %1) : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %3 = "wl.rms_norm"(%2, %g) {eps = 1.0e-5 : f64} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<8xf32>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %4 = "wl.linear"(%3, %v) {n = 8 : i64, layout = "row"} : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<8x8xbf16>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %5 = "wl.add"(%2, %4) : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  return %5 : tensor<?x8xf32, #wl.dims<["T", 8]>>
}

// CHECK:      func.func @step(%[[X:.*]]: tensor<?x8xf32
// CHECK-DAG:    %[[G:.*]] = "wl.param"() {dtype = "f32", name = "g"
// CHECK-DAG:    %[[W:.*]] = "wl.param"() {dtype = "bf16", name = "w"
// CHECK-DAG:    %[[V:.*]] = "wl.param"() {dtype = "bf16", name = "v"
// CHECK:        %[[A:.*]] = call @[[LINEAR:linear_[0-9]+]](%[[X]], %[[G]], %[[W]])
// CHECK-NEXT:   %[[B:.*]] = call @[[LINEAR]](%[[A]], %[[G]], %[[V]])
// CHECK-NEXT:   return %[[B]]
// CHECK:      func.func private @[[LINEAR]]
// CHECK-NOT:  func.func
