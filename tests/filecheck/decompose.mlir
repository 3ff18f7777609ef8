// PASSES: decompose
// A softmax over the last axis in core ops.

func.func @step(%x: tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "x"}) -> (tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "y"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %0 = "wl.softmax"(%x) : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  return %0 : tensor<?x8xf32, #wl.dims<["T", 8]>>
}

// CHECK:      func.func @step(%[[X:.*]]: tensor<?x8xf32
// CHECK-NEXT:   %[[M:.*]] = "wl.reduce_max"(%[[X]]) {axis = 1 : i64}
// CHECK-NEXT:   %[[P:.*]] = "wl.broadcast"(%[[M]])
// CHECK-NEXT:   %[[D:.*]] = "wl.sub"(%[[X]], %[[P]])
// CHECK-NEXT:   %[[E:.*]] = "wl.exp"(%[[D]])
// CHECK-NEXT:   %[[S:.*]] = "wl.reduce_sum"(%[[E]]) {axis = 1 : i64}
// CHECK-NEXT:   %[[R:.*]] = "wl.broadcast"(%[[S]])
// CHECK-NEXT:   %[[Y:.*]] = "wl.div"(%[[E]], %[[R]])
// CHECK-NEXT:   return %[[Y]]
