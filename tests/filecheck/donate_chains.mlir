// PASSES: donate
// Writes after writes: into a cache that was given away all are in place; into one that was not none is, though only
// the next write reads what the one before has made; and a cache that is returned as it was must not be overwritten.

func.func @given(%kv: tensor<1x2x2x1x64xf32> {wl.name = "kv", wl.donated}, %k: tensor<1x1x16xf32> {wl.name = "k"}, %slots: tensor<1xi32> {wl.name = "slots"}) -> (tensor<1x2x2x1x64xf32> {wl.name = "kv"}) {
  %0 = "wl.kv_write"(%kv, %k, %k, %slots) {layer = 0 : i64, page_size = 4 : i64, k_layout = "dim_major"} : (tensor<1x2x2x1x64xf32>, tensor<1x1x16xf32>, tensor<1x1x16xf32>, tensor<1xi32>) -> tensor<1x2x2x1x64xf32>
  %1 = "wl.kv_write"(%0, %k, %k, %slots) {layer = 0 : i64, page_size = 4 : i64, k_layout = "dim_major"} : (tensor<1x2x2x1x64xf32>, tensor<1x1x16xf32>, tensor<1x1x16xf32>, tensor<1xi32>) -> tensor<1x2x2x1x64xf32>
  return %1 : tensor<1x2x2x1x64xf32>
}

func.func @kept(%kv: tensor<1x2x2x1x64xf32> {wl.name = "kv"}, %k: tensor<1x1x16xf32> {wl.name = "k"}, %slots: tensor<1xi32> {wl.name = "slots"}) -> (tensor<1x2x2x1x64xf32> {wl.name = "new"}) {
  %0 = "wl.kv_write"(%kv, %k, %k, %slots) {layer = 0 : i64, page_size = 4 : i64, k_layout = "dim_major"} : (tensor<1x2x2x1x64xf32>, tensor<1x1x16xf32>, tensor<1x1x16xf32>, tensor<1xi32>) -> tensor<1x2x2x1x64xf32>
  %1 = "wl.kv_write"(%0, %k, %k, %slots) {layer = 0 : i64, page_size = 4 : i64, k_layout = "dim_major"} : (tensor<1x2x2x1x64xf32>, tensor<1x1x16xf32>, tensor<1x1x16xf32>, tensor<1xi32>) -> tensor<1x2x2x1x64xf32>
  return %1 : tensor<1x2x2x1x64xf32>
}

func.func @returned(%kv: tensor<1x2x2x1x64xf32> {wl.name = "kv", wl.donated}, %k: tensor<1x1x16xf32> {wl.name = "k"}, %slots: tensor<1xi32> {wl.name = "slots"}) -> (tensor<1x2x2x1x64xf32> {wl.name = "kv"}, tensor<1x2x2x1x64xf32> {wl.name = "before"}) {
  %0 = "wl.kv_write"(%kv, %k, %k, %slots) {layer = 0 : i64, page_size = 4 : i64, k_layout = "dim_major"} : (tensor<1x2x2x1x64xf32>, tensor<1x1x16xf32>, tensor<1x1x16xf32>, tensor<1xi32>) -> tensor<1x2x2x1x64xf32>
  return %0, %kv : tensor<1x2x2x1x64xf32>, tensor<1x2x2x1x64xf32>
}

// CHECK-LABEL: func.func @given
// CHECK:         "wl.kv_write"{{.*}} wl.in_place
// CHECK-NEXT:    "wl.kv_write"{{.*}} wl.in_place
// CHECK-LABEL: func.func @kept
// CHECK:         "wl.kv_write"{{.*}} wl.refused
// CHECK-NEXT:    "wl.kv_write"{{.*}} wl.refused
// CHECK-LABEL: func.func @returned
// CHECK:         "wl.kv_write"{{.*}} wl.refused
