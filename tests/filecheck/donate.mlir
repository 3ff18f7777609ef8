// PASSES: donate
// The second write overwrites memory that @step was given; the first must not, for the old cache is still read.

func.func @step(%kv: tensor<1x2x2x1x64xf32> {wl.name = "kv", wl.donated}, %old: tensor<1x2x2x1x64xf32> {wl.name = "old"}, %k: tensor<1x1x16xf32> {wl.name = "k"}, %slots: tensor<1xi32> {wl.name = "slots"}) -> (tensor<1x2x2x1x64xf32> {wl.name = "kv"}, tensor<1x2x2x1x64xf32> {wl.name = "copy"}) {
  %0 = "wl.kv_write"(%old, %k, %k, %slots) {layer = 0 : i64, page_size = 4 : i64, k_layout = "dim_major"} : (tensor<1x2x2x1x64xf32>, tensor<1x1x16xf32>, tensor<1x1x16xf32>, tensor<1xi32>) -> tensor<1x2x2x1x64xf32>
  %1 = "wl.kv_write"(%kv, %k, %k, %slots) {layer = 0 : i64, page_size = 4 : i64, k_layout = "dim_major"} : (tensor<1x2x2x1x64xf32>, tensor<1x1x16xf32>, tensor<1x1x16xf32>, tensor<1xi32>) -> tensor<1x2x2x1x64xf32>
  return %1, %0 : tensor<1x2x2x1x64xf32>, tensor<1x2x2x1x64xf32>
}

// CHECK:      func.func @step(%[[KV:.*]]: tensor<1x2x2x1x64xf32> {wl.donated
// CHECK:        "wl.kv_write"(%arg1, {{.*}} wl.refused = "the cache is neither a donated input nor the result of an in-place write"
// CHECK-NEXT:   "wl.kv_write"(%[[KV]], {{.*}} wl.in_place
