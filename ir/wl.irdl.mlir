module {
  irdl.dialect @wl {
    irdl.attribute @dims {
      %0 = irdl.base "#builtin.array"
      irdl.parameters(names: %0)
    }
    irdl.operation @abs {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @add {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @and {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @argmax {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @attention {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "!builtin.tensor"
      %6 = irdl.base "!builtin.tensor"
      %7 = irdl.base "#builtin.integer"
      %8 = irdl.base "#builtin.integer"
      %9 = irdl.base "#builtin.string"
      %10 = irdl.base "#builtin.float"
      %11 = irdl.base "#builtin.integer"
      irdl.operands(q: %0, kv: %1, page_table: %2, query_start: %3, context_lens: %4, sinks: optional %5)
      irdl.results(out: %6)
      irdl.attributes {"layer" = %7, "page_size" = %8, "k_layout" = %9, "scale" = %10, "window" = %11}
    }
    irdl.operation @bitcast {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.string"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"dtype" = %2}
    }
    irdl.operation @broadcast {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.array"
      %3 = irdl.base "#builtin.dense_array"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"shape" = %2, "dims" = %3}
    }
    irdl.operation @cast {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.string"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"dtype" = %2}
    }
    irdl.operation @checkpoint {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "#builtin.string"
      %2 = irdl.base "#builtin.array"
      %3 = irdl.base "#builtin.string"
      irdl.results(out: %0)
      irdl.attributes {"name" = %1, "shape" = %2, "dtype" = %3}
    }
    irdl.operation @clamped_swiglu {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.float"
      %4 = irdl.base "#builtin.float"
      irdl.operands(gate: %0, up: %1)
      irdl.results(out: %2)
      irdl.attributes {"alpha" = %3, "limit" = %4}
    }
    irdl.operation @combine_experts {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(y: %0, shares: %1)
      irdl.results(out: %2)
    }
    irdl.operation @compare {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.string"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
      irdl.attributes {"direction" = %3}
    }
    irdl.operation @concat {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.integer"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
      irdl.attributes {"axis" = %3}
    }
    irdl.operation @constant {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.any
      irdl.results(out: %0)
      irdl.attributes {"value" = %1}
    }
    irdl.operation @cos {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @cumsum {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @dequantize {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      irdl.operands(q: %0, scale: %1, offset: optional %2)
      irdl.results(out: %3)
    }
    irdl.operation @dequantize_mxfp4 {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(q: %0, scale: %1)
      irdl.results(out: %2)
    }
    irdl.operation @div {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @dot_general {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.dense_array"
      %4 = irdl.base "#builtin.dense_array"
      %5 = irdl.base "#builtin.dense_array"
      %6 = irdl.base "#builtin.dense_array"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
      irdl.attributes {"x_contract" = %3, "y_contract" = %4, "x_batch" = %5, "y_batch" = %6}
    }
    irdl.operation @embed {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.integer"
      %4 = irdl.base "#builtin.string"
      irdl.operands(ids: %0, table: %1)
      irdl.results(out: %2)
      irdl.attributes {"n" = %3, "layout" = %4}
    }
    irdl.operation @erf {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @exp {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @expert_linear {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "#builtin.integer"
      irdl.operands(x: %0, experts: %1, weight: %2)
      irdl.results(out: %3)
      irdl.attributes {"n" = %4}
    }
    irdl.operation @export {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "#builtin.string"
      irdl.operands(value: %0)
      irdl.attributes {"name" = %1}
    }
    irdl.operation @floor {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @full {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "#builtin.array"
      %2 = irdl.base "#builtin.float"
      %3 = irdl.base "#builtin.string"
      irdl.results(out: %0)
      irdl.attributes {"shape" = %1, "value" = %2, "dtype" = %3}
    }
    irdl.operation @gather {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, indices: %1)
      irdl.results(out: %2)
    }
    irdl.operation @gelu {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @gelu_tanh {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @head_linear {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "#builtin.integer"
      irdl.operands(x: %0, weight: %1, scale: optional %2)
      irdl.results(out: %3)
      irdl.attributes {"n" = %4}
    }
    irdl.operation @iota {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "#builtin.array"
      %2 = irdl.base "#builtin.integer"
      irdl.results(out: %0)
      irdl.attributes {"shape" = %1, "axis" = %2}
    }
    irdl.operation @kv_write {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "#builtin.integer"
      %6 = irdl.base "#builtin.integer"
      %7 = irdl.base "#builtin.string"
      irdl.operands(kv: %0, k: %1, v: %2, slots: %3)
      irdl.results(out: %4)
      irdl.attributes {"layer" = %5, "page_size" = %6, "k_layout" = %7}
    }
    irdl.operation @latent_attention {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "!builtin.tensor"
      %6 = irdl.base "!builtin.tensor"
      %7 = irdl.base "#builtin.integer"
      %8 = irdl.base "#builtin.integer"
      %9 = irdl.base "#builtin.float"
      irdl.operands(q_latent: %0, q_rope: %1, kv: %2, page_table: %3, query_start: %4, context_lens: %5)
      irdl.results(out: %6)
      irdl.attributes {"layer" = %7, "page_size" = %8, "scale" = %9}
    }
    irdl.operation @latent_write {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "#builtin.integer"
      %6 = irdl.base "#builtin.integer"
      irdl.operands(kv: %0, latent: %1, rope_key: %2, slots: %3)
      irdl.results(out: %4)
      irdl.attributes {"layer" = %5, "page_size" = %6}
    }
    irdl.operation @layer_norm {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "#builtin.float"
      irdl.operands(x: %0, weight: %1, bias: optional %2)
      irdl.results(out: %3)
      irdl.attributes {"eps" = %4}
    }
    irdl.operation @linear {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.integer"
      %4 = irdl.base "#builtin.string"
      irdl.operands(x: %0, weight: %1)
      irdl.results(out: %2)
      irdl.attributes {"n" = %3, "layout" = %4}
    }
    irdl.operation @log {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @logistic {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @max {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @min {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @mul {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @mxfp4_expert_linear {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "#builtin.integer"
      irdl.operands(x: %0, experts: %1, q: %2, scale: %3)
      irdl.results(out: %4)
      irdl.attributes {"n" = %5}
    }
    irdl.operation @neg {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @not {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @or {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @pack {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.string"
      irdl.operands(weight: %0)
      irdl.results(out: %1)
      irdl.attributes {"layout" = %2}
    }
    irdl.operation @pad {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.integer"
      %3 = irdl.base "#builtin.integer"
      %4 = irdl.base "#builtin.integer"
      %5 = irdl.base "#builtin.float"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"axis" = %2, "low" = %3, "high" = %4, "value" = %5}
    }
    irdl.operation @param {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "#builtin.string"
      %2 = irdl.base "#builtin.array"
      %3 = irdl.base "#builtin.string"
      irdl.results(out: %0)
      irdl.attributes {"name" = %1, "shape" = %2, "dtype" = %3}
    }
    irdl.operation @place_columns {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, order: %1)
      irdl.results(out: %2)
    }
    irdl.operation @pow {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @quantize {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.string"
      %4 = irdl.base "#builtin.integer"
      %5 = irdl.base "#builtin.string"
      irdl.operands(x: %0)
      irdl.results(q: %1, scale: %2)
      irdl.attributes {"dtype" = %3, "group" = %4, "scale_dtype" = %5}
    }
    irdl.operation @quantize_affine {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "#builtin.string"
      %5 = irdl.base "#builtin.integer"
      %6 = irdl.base "#builtin.string"
      irdl.operands(x: %0)
      irdl.results(q: %1, scale: %2, offset: %3)
      irdl.attributes {"dtype" = %4, "group" = %5, "scale_dtype" = %6}
    }
    irdl.operation @quantize_mxfp4 {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(q: %1, scale: %2)
    }
    irdl.operation @quantize_static {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.string"
      irdl.operands(x: %0, scale: %1)
      irdl.results(out: %2)
      irdl.attributes {"dtype" = %3}
    }
    irdl.operation @quantized_embed {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "#builtin.integer"
      %6 = irdl.base "#builtin.string"
      irdl.operands(ids: %0, q: %1, scale: %2, offset: optional %3)
      irdl.results(out: %4)
      irdl.attributes {"n" = %5, "layout" = %6}
    }
    irdl.operation @quantized_expert_linear {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "!builtin.tensor"
      %6 = irdl.base "#builtin.integer"
      %7 = irdl.base "#builtin.string"
      irdl.operands(x: %0, experts: %1, q: %2, scale: %3, offset: optional %4)
      irdl.results(out: %5)
      irdl.attributes {"n" = %6, "layout" = %7}
    }
    irdl.operation @quantized_linear {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "#builtin.integer"
      %6 = irdl.base "#builtin.string"
      irdl.operands(x: %0, q: %1, scale: %2, offset: optional %3)
      irdl.results(out: %4)
      irdl.attributes {"n" = %5, "layout" = %6}
    }
    irdl.operation @random_bits {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.integer"
      irdl.operands(keys: %0, counters: %1)
      irdl.results(out: %2)
      irdl.attributes {"n" = %3}
    }
    irdl.operation @reduce_max {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.integer"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"axis" = %2}
    }
    irdl.operation @reduce_min {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.integer"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"axis" = %2}
    }
    irdl.operation @reduce_sum {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.integer"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"axis" = %2}
    }
    irdl.operation @relu2 {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @reshape {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.array"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"shape" = %2}
    }
    irdl.operation @rms_norm {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.float"
      irdl.operands(x: %0, weight: %1)
      irdl.results(out: %2)
      irdl.attributes {"eps" = %3}
    }
    irdl.operation @rope {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, cos: %1, sin: %2)
      irdl.results(out: %3)
    }
    irdl.operation @round {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @route_experts {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.integer"
      %4 = irdl.base "#builtin.integer"
      irdl.operands(logits: %0)
      irdl.results(shares: %1, experts: %2)
      irdl.attributes {"k" = %3, "normalized" = %4}
    }
    irdl.operation @route_in_groups {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "#builtin.integer"
      %5 = irdl.base "#builtin.string"
      %6 = irdl.base "#builtin.integer"
      %7 = irdl.base "#builtin.integer"
      %8 = irdl.base "#builtin.integer"
      %9 = irdl.base "#builtin.integer"
      %10 = irdl.base "#builtin.float"
      irdl.operands(logits: %0, bias: optional %1)
      irdl.results(shares: %2, experts: %3)
      irdl.attributes {"k" = %4, "score" = %5, "groups" = %6, "kept" = %7, "best" = %8, "normalized" = %9, "scale" = %10}
    }
    irdl.operation @rsqrt {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @sample {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "!builtin.tensor"
      %6 = irdl.base "!builtin.tensor"
      %7 = irdl.base "!builtin.tensor"
      %8 = irdl.base "!builtin.tensor"
      %9 = irdl.base "!builtin.tensor"
      %10 = irdl.base "!builtin.tensor"
      %11 = irdl.base "!builtin.tensor"
      %12 = irdl.base "!builtin.tensor"
      %13 = irdl.base "!builtin.tensor"
      %14 = irdl.base "!builtin.tensor"
      %15 = irdl.base "!builtin.tensor"
      %16 = irdl.base "!builtin.tensor"
      irdl.operands(logits: %0, temperature: %1, top_k: %2, top_p: %3, min_p: %4, repetition_penalty: %5, presence_penalty: %6, frequency_penalty: %7, seeds: %8, sample_positions: %9, penalty_tokens: %10, penalty_counts: %11, bias_tokens: %12, bias_values: %13, banned_bits: %14)
      irdl.results(tokens: %15, logprobs: %16)
    }
    irdl.operation @scaled_attention {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "!builtin.tensor"
      %6 = irdl.base "!builtin.tensor"
      %7 = irdl.base "!builtin.tensor"
      %8 = irdl.base "#builtin.integer"
      %9 = irdl.base "#builtin.integer"
      %10 = irdl.base "#builtin.string"
      %11 = irdl.base "#builtin.float"
      %12 = irdl.base "#builtin.integer"
      irdl.operands(q: %0, kv: %1, scales: %2, page_table: %3, query_start: %4, context_lens: %5, sinks: optional %6)
      irdl.results(out: %7)
      irdl.attributes {"layer" = %8, "page_size" = %9, "k_layout" = %10, "scale" = %11, "window" = %12}
    }
    irdl.operation @scaled_kv_write {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "!builtin.tensor"
      %6 = irdl.base "#builtin.integer"
      %7 = irdl.base "#builtin.integer"
      %8 = irdl.base "#builtin.string"
      irdl.operands(kv: %0, k: %1, v: %2, slots: %3, scales: %4)
      irdl.results(out: %5)
      irdl.attributes {"layer" = %6, "page_size" = %7, "k_layout" = %8}
    }
    irdl.operation @scaled_linear {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      %4 = irdl.base "!builtin.tensor"
      %5 = irdl.base "!builtin.tensor"
      %6 = irdl.base "#builtin.integer"
      %7 = irdl.base "#builtin.string"
      %8 = irdl.base "#builtin.string"
      irdl.operands(x: %0, x_scale: %1, q: %2, scale: %3, offset: optional %4)
      irdl.results(out: %5)
      irdl.attributes {"n" = %6, "layout" = %7, "dtype" = %8}
    }
    irdl.operation @scatter {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, indices: %1, updates: %2)
      irdl.results(out: %3)
    }
    irdl.operation @select {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "!builtin.tensor"
      irdl.operands(condition: %0, x: %1, y: %2)
      irdl.results(out: %3)
    }
    irdl.operation @shl {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @shr {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @silu {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @sin {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @slice {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.integer"
      %3 = irdl.base "#builtin.integer"
      %4 = irdl.base "#builtin.integer"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"axis" = %2, "start" = %3, "stop" = %4}
    }
    irdl.operation @softcap {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.float"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"cap" = %2}
    }
    irdl.operation @softmax {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @sort {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @sqrt {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @sub {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
    irdl.operation @swiglu {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(gate: %0, up: %1)
      irdl.results(out: %2)
    }
    irdl.operation @take_columns {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, order: %1)
      irdl.results(out: %2)
    }
    irdl.operation @tanh {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0)
      irdl.results(out: %1)
    }
    irdl.operation @top_k {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.integer"
      irdl.operands(x: %0)
      irdl.results(values: %1, indices: %2)
      irdl.attributes {"k" = %3}
    }
    irdl.operation @top_logprobs {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      %3 = irdl.base "#builtin.integer"
      irdl.operands(logits: %0)
      irdl.results(top_tokens: %1, top_logprobs: %2)
      irdl.attributes {"k" = %3}
    }
    irdl.operation @transpose {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "#builtin.dense_array"
      irdl.operands(x: %0)
      irdl.results(out: %1)
      irdl.attributes {"permutation" = %2}
    }
    irdl.operation @xor {
      %0 = irdl.base "!builtin.tensor"
      %1 = irdl.base "!builtin.tensor"
      %2 = irdl.base "!builtin.tensor"
      irdl.operands(x: %0, y: %1)
      irdl.results(out: %2)
    }
  }
}
