// PASSES: fuse_loops
// The sines and cosines of the same angles come from one loop nest, which computes the angles as well.
// A sum of them cannot share it, and what needs a result before the others can be computed stays outside.

func.func @step(%x: tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "x"}) -> (tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "c"}, tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "s"}, tensor<?xf32, #wl.dims<["T"]>> {wl.name = "t"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %0 = "wl.mul"(%x, %x) : (tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %1 = "wl.cos"(%0) : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %2 = "wl.sin"(%0) : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  %3 = "wl.reduce_sum"(%1) {axis = 1 : i64} : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?xf32, #wl.dims<["T"]>>
  return %1, %2, %3 : tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<?x8xf32, #wl.dims<["T", 8]>>, tensor<?xf32, #wl.dims<["T"]>>
}

// CHECK:      func.func @step(%[[X:.*]]: tensor<?x8xf32
// CHECK-NEXT:   %[[BOTH:.*]]:2 = call @[[LOOPS:loops_[0-9]+]](%[[X]])
// CHECK-NEXT:   %[[SUM:.*]] = call @loops_{{[0-9]+}}(%[[BOTH]]#0)
// CHECK-NEXT:   return %[[BOTH]]#0, %[[BOTH]]#1, %[[SUM]]
// CHECK:      func.func private @[[LOOPS]]
// CHECK:        %[[ANGLES:.*]] = "wl.mul"
// CHECK-NEXT:   %[[COS:.*]] = "wl.cos"(%[[ANGLES]])
// CHECK-NEXT:   %[[SIN:.*]] = "wl.sin"(%[[ANGLES]])
// CHECK-NEXT:   return %[[COS]], %[[SIN]]
