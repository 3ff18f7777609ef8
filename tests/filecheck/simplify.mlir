// PASSES: simplify dce
// Neutral elements, pairs that cancel, and constants that only change shape disappear.

func.func @step(%x: tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "x"}) -> (tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "y"}, tensor<?x4xf32, #wl.dims<["T", 4]>> {wl.name = "z"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %zero = "wl.full"() {shape = [8], value = 0.0 : f64, dtype = "f32"} : () -> tensor<8xf32>
  %zeros = "wl.broadcast"(%zero) {shape = ["T", 8], dims = array<i64: 1>} : (tensor<8xf32>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %0 = "wl.add"(%x, %zeros) : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %1 = "wl.transpose"(%0) {permutation = array<i64: 1, 0>} : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<8x?xf32, #wl.dims<[8, "T"]>>
  %2 = "wl.transpose"(%1) {permutation = array<i64: 1, 0>} : (tensor<8x?xf32, #wl.dims<[8, "T"]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %3 = "wl.neg"(%2) : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %4 = "wl.neg"(%3) : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %5 = "wl.exp"(%4) : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %6 = "wl.slice"(%5) {axis = 1 : i64, start = 2 : i64, stop = 8 : i64} : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x6xf32, #wl.dims<["T", 6]>>
  %7 = "wl.slice"(%6) {axis = 1 : i64, start = 1 : i64, stop = 5 : i64} : (tensor<?x6xf32, #wl.dims<["T", 6]>>) -> tensor<?x4xf32, #wl.dims<["T", 4]>>
  return %5, %7 : tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<?x4xf32, #wl.dims<["T", 4]>>
}

// CHECK:      func.func @step(%[[X:.*]]: tensor<?x8xf32
// CHECK-NEXT:   %[[E:.*]] = "wl.exp"(%[[X]])
// CHECK-NEXT:   %[[Z:.*]] = "wl.slice"(%[[E]]) {axis = 1 : i64, start = 3 : i64, stop = 7 : i64}
// CHECK-NEXT:   return %[[E]], %[[Z]]
