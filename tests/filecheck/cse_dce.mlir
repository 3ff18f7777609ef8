// PASSES: cse dce
// Equal ops are one, unused ops and exports and groups are gone; different attributes keep ops apart.

func.func private @unused_0(%x: tensor<4xf32> {wl.name = "0"}) -> (tensor<4xf32> {wl.name = "0"}) {
  return %x : tensor<4xf32>
}

func.func @step(%x: tensor<4xf32> {wl.name = "x"}) -> (tensor<4xf32> {wl.name = "y"}, tensor<4xi1> {wl.name = "z"}) {
  %w = "wl.param"() {name = "w", shape = [4], dtype = "f32"} : () -> tensor<4xf32>
  %again = "wl.param"() {name = "w", shape = [4], dtype = "f32"} : () -> tensor<4xf32>
  %0 = "wl.exp"(%w) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = "wl.exp"(%again) : (tensor<4xf32>) -> tensor<4xf32>
  %2 = "wl.mul"(%0, %1) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %3 = "wl.compare"(%2, %x) {direction = "lt"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
  %4 = "wl.compare"(%2, %x) {direction = "gt"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
  %5 = "wl.xor"(%3, %4) : (tensor<4xi1>, tensor<4xi1>) -> tensor<4xi1>
  %6 = "wl.tanh"(%x) : (tensor<4xf32>) -> tensor<4xf32>
  %7 = "wl.sin"(%6) : (tensor<4xf32>) -> tensor<4xf32>
  return %2, %5 : tensor<4xf32>, tensor<4xi1>
}

func.func @prepare() {
  %0 = "wl.checkpoint"() {name = "hf.w", shape = [4], dtype = "f32"} : () -> tensor<4xf32>
  "wl.export"(%0) {name = "w"} : (tensor<4xf32>) -> ()
  %1 = "wl.checkpoint"() {name = "hf.v", shape = [4], dtype = "f32"} : () -> tensor<4xf32>
  "wl.export"(%1) {name = "v"} : (tensor<4xf32>) -> ()
  return
}

// CHECK-NOT:  @unused_0
// CHECK:      func.func @step(%[[X:.*]]: tensor<4xf32>
// CHECK-NEXT:   %[[W:.*]] = "wl.param"()
// CHECK-NEXT:   %[[E:.*]] = "wl.exp"(%[[W]])
// CHECK-NEXT:   %[[M:.*]] = "wl.mul"(%[[E]], %[[E]])
// CHECK-NEXT:   %[[L:.*]] = "wl.compare"(%[[M]], %[[X]]) {direction = "lt"}
// CHECK-NEXT:   %[[G:.*]] = "wl.compare"(%[[M]], %[[X]]) {direction = "gt"}
// CHECK-NEXT:   %[[D:.*]] = "wl.xor"(%[[L]], %[[G]])
// CHECK-NEXT:   return %[[M]], %[[D]]
// CHECK:      func.func @prepare
// CHECK-NEXT:   %[[C:.*]] = "wl.checkpoint"() {dtype = "f32", name = "hf.w"
// CHECK-NEXT:   "wl.export"(%[[C]]) {name = "w"}
// CHECK-NEXT:   return
