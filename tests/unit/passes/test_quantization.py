"""Schemes: which weight gets which, what is refused, what a quantized checkpoint and scaled activations mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlir.ir as mlir
import numpy as np
import pytest

from tests.targets import EAGER, UNABLE
from tests.unit.passes.test_pipeline_on_llama import step_inputs
from tests.unit.passes.tiny_llama import CACHE, CONFIG, LIMITS, random_tensors, traced
from warploom.codegen.cpu.target import CPU
from warploom.errors import CompileError
from warploom.frontend.quantized.format import Parts, quantized_weight
from warploom.frontend.tensors import LazyTensor, require
from warploom.frontend.trace import trace
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate, evaluate_exports
from warploom.ir.op import op_of
from warploom.ir.ops.quantize import quantize, quantize_affine, quantize_static
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.rewrite import is_op, users
from warploom.ir.types import DType, type_of
from warploom.passes.hoist_weights import hoist_weights
from warploom.passes.merge_linears import merge_linears
from warploom.passes.pipeline import pipeline, run
from warploom.passes.quantization.activation_aware import best_scales
from warploom.passes.quantization.scheme import Rules, families, scheme
from warploom.passes.quantize_activations import quantize_activations
from warploom.passes.quantize_weights import quantize_weights
from warploom.passes.scale_activations import scale_activations, scaled_inputs

INT4 = {"dtype": "i4", "group": 32, "scale_dtype": "f16"}


def logits(module: mlir.Module, tensors: dict[str, LazyTensor]) -> np.ndarray:
    params = dict(evaluate_exports(module, lambda name: tensors[name].load()))
    return evaluate(module, "step", step_inputs(), params)["logits"]


def formats(module: mlir.Module) -> dict[str, list[str]]:
    """Dtypes of the weights of the linears of `@step`, by the name of the op."""
    found: dict[str, list[str]] = {}
    for operation in functions(module)["step"].ops:
        spec = op_of(operation)
        if spec is not None and "linear" in spec.name:
            found.setdefault(spec.name, []).append(type_of(operation.operands[1]).dtype.value)
    return found


@pytest.mark.usefixtures("wl")
def test_the_first_pattern_that_fits_counts() -> None:
    module = traced({"num_hidden_layers": 1})
    rules = Rules({"lm_head": "bf16", "model.layers.0.mlp.down_proj": "int8", "*.self_attn": "fp8:all", "*": "int4"})
    quantize_weights(module, rules)
    found = formats(module)
    assert found["linear"] == ["bf16"]
    assert sorted(found["quantized_linear"]) == ["f8e4m3"] * 4 + ["i4"] * 2 + ["i8"]


@pytest.mark.usefixtures("wl")
def test_without_a_fitting_pattern_a_weight_stays_as_it_is() -> None:
    module = traced({"num_hidden_layers": 1})
    quantize_weights(module, Rules("lm_head=int8"))
    assert formats(module)["linear"] == ["f32"] * 7


@pytest.mark.usefixtures("wl")
def test_columns_that_do_not_divide_are_refused_with_a_way_out() -> None:
    module = traced({"intermediate_size": 100})
    with pytest.raises(CompileError, match="down_proj cannot be stored as int4:g64") as caught:
        quantize_weights(module, Rules("int4:g64"))
    assert "100 columns" in str(caught.value.found)
    assert "down_proj" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int3", "unknown quantization 'int3'"),
        ("int4:g48", "no option 'g48'"),
        ("int4:g32:g64", "one size"),
        ("lm_head=bf16,int4", "gives no scheme"),
        ("bf16:fast", "no option"),
    ],
)
def test_bad_spellings_are_refused(text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        Rules(text)


def test_rules_are_spelled_as_they_are_read() -> None:
    for text in ("int8", "int4:g64:zeros", "lm_head=bf16,*=int4:g128"):
        assert str(Rules(text)) == text
        assert str(Rules(str(Rules(text)))) == text


def test_every_scheme_is_found_by_its_file() -> None:
    assert {"f32", "bf16", "int8", "int4", "fp8", "checkpoint"} <= families().keys()
    assert all(scheme(name).name == name for name in families())


@pytest.mark.usefixtures("wl")
def test_fp8_weights_meet_fp8_activations_and_int8_what_the_target_asks() -> None:
    module = traced({"num_hidden_layers": 1})
    quantize_weights(module, Rules("lm_head=int8,*.mlp.*=int8,*=fp8:all"))
    quantize_activations(module, EAGER)
    assert formats(module).keys() == {"scaled_linear", "quantized_linear"}
    made = [op for op in functions(module)["step"].ops if is_op(op, quantize) and users(op.results[0])]
    of_activations = [quantize.attrs_of(op)["dtype"] for op in made if not type_of(op.operands[0]).is_static]
    assert of_activations == ["f8e4m3"] * 4
    quantize_activations(module, CPU)
    assert formats(module).keys() == {"scaled_linear"}


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("text", "last"), [("fp8", "i8"), ("fp8:all", "f8e4m3")])
def test_what_comes_after_the_last_attention_is_int8_in_fp8_unless_asked_for(text: str, last: str, tied: bool) -> None:
    module = traced({"num_hidden_layers": 2, "tie_word_embeddings": tied})
    quantize_weights(module, Rules(text))
    found = formats(module)["quantized_linear"]
    assert found == ["f8e4m3"] * (7 + 3) + [last] * 5  # o, gate, up, down, head


@pytest.mark.usefixtures("wl")
def test_quantized_weights_without_a_kernel_are_refused_with_the_reason() -> None:
    with pytest.raises(CompileError, match="no kernel for the quantized weight of model") as caught:
        list(run(traced(), pipeline(UNABLE, "int8")))
    assert "no kernels at all" in str(caught.value.found)


def stored(tensors: dict[str, LazyTensor], op: Callable[..., Any], how: dict[str, Any]) -> dict[str, LazyTensor]:
    """The tensors as a quantized checkpoint would have them: projections in parts, everything else as it is."""
    result = dict(tensors)
    for name, tensor in tensors.items():
        if "_proj" in name:
            made = op(tensor.load(), **how)
            side = (made[1].shape, how["scale_dtype"])
            dtypes = [(tensor.shape, how["dtype"]), *[side] * (len(made) - 1)]
            arrays = tuple(a.astype(DType(d).numpy) for a, (_, d) in zip(made, dtypes, strict=True))
            result |= quantized_weight(name, Parts(tuple(dtypes), partial(tuple, arrays)), "test")
    return result


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("op", [quantize, quantize_affine], ids=lambda op: op.name)
def test_a_quantized_checkpoint_keeps_its_numbers_and_its_meaning(op: Any) -> None:
    tensors = stored(random_tensors(CONFIG), op.evaluate, INT4)
    before = trace(CONFIG, partial(require, tensors), CACHE, LIMITS)
    expected = logits(before, tensors)
    after = trace(CONFIG, partial(require, tensors), CACHE, LIMITS)
    assert list(run(after, pipeline(EAGER, {"lm_head": "f32", "*": "checkpoint"})))
    # One group for q, k and v, one for gate and up: numbers, scales and offsets are merged.
    heroes = [op for f in functions(after).values() for op in f.ops if is_op(op, quantized_linear, scaled_linear)]
    assert heroes
    np.testing.assert_allclose(logits(after, tensors), expected, rtol=1e-4, atol=1e-5)


def fp8_checkpoint(group: int, scales: dict[str, float]) -> tuple[mlir.Module, dict[str, np.ndarray]]:
    """@step on FP8 weights that a checkpoint holds, linears merged and activations quantized; and its parameters.

    Args:
        group: columns of a scale, 0: all.
        scales: of the inputs of projections of layer 0, by their names.
    """
    config = {**CONFIG, "num_hidden_layers": 1}
    tensors = stored(
        random_tensors(config), quantize.evaluate, {"dtype": "f8e4m3", "group": group, "scale_dtype": "f32"}
    )
    for name, scale in scales.items():
        (path,) = (key.removesuffix(".weight") for key in tensors if key.endswith(f"{name}.weight"))
        known, array = f"{path}.input_scale", np.full(1, scale, np.float32)
        tensors[known] = LazyTensor(known, (1,), "f32", "test", partial(np.asarray, array))
    module = trace(config, partial(require, tensors), CACHE, LIMITS)
    quantize_weights(module, Rules({"lm_head": "f32", "*": "checkpoint"}))
    merge_linears(module)
    quantize_activations(module, EAGER, tensors)
    hoist_weights(module)
    return module, dict(evaluate_exports(module, lambda name: tensors[name].load()))


@pytest.mark.usefixtures("wl")
def test_merged_linears_share_the_largest_static_scale_if_all_have_one() -> None:
    module, params = fp8_checkpoint(
        0, {"q_proj": 0.5, "k_proj": 2.0, "v_proj": 1.0, "gate_proj": 4.0, "down_proj": 3.0}
    )
    step = functions(module)["step"].ops
    static = [op for op in step if is_op(op, quantize_static)]
    assert [params[op.operands[1].owner.attributes["name"].value].item() for op in static] == [2.0, 3.0], "q k v; down"
    assert formats(module).keys() == {"linear", "scaled_linear"}, "up has none: it and gate, and o, are scaled by token"
    assert sum(is_op(op, quantize) for op in step) == 2


@pytest.mark.usefixtures("wl")
def test_weights_with_scales_of_blocks_meet_activations_as_they_are() -> None:
    module, _ = fp8_checkpoint(32, {"q_proj": 0.5, "k_proj": 2.0, "v_proj": 1.0})
    assert formats(module).keys() == {"linear", "quantized_linear"}


@pytest.mark.usefixtures("wl")
def test_scaled_activations_mean_the_same_before_rounding() -> None:
    tensors = random_tensors(CONFIG)
    expected = logits(traced(), tensors)
    rules = Rules("int4:awq")
    module = traced()
    found = list(scaled_inputs(functions(module)["step"], rules))
    assert len(found) == 3 * CONFIG["num_hidden_layers"]  # q k v; gate up; down
    rng = np.random.default_rng(0)
    for i in found:
        array = rng.uniform(0.5, 2, i.channels).astype(np.float32)
        tensors[i.name] = LazyTensor(i.name, array.shape, "f32", "test", partial(np.asarray, array))
    scale_activations(module, rules, tensors)
    assert list(run(module, pipeline(EAGER, None)))
    np.testing.assert_allclose(logits(module, tensors), expected, rtol=1e-4, atol=1e-5)


def test_scales_protect_channels_that_meet_large_activations() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 64)).astype(np.float32)
    x[:, 5] *= 50
    weight = rng.standard_normal((32, 64)).astype(np.float32)
    round_trip = scheme("int4:awq").calibration
    assert round_trip is not None
    scales = best_scales(x, [weight], round_trip)
    assert scales.argmax() == 5

    def error(stored_weight: np.ndarray) -> float:
        return float(np.square(x @ (stored_weight - weight).T).mean())

    assert error(round_trip(weight * scales) / scales) < 0.5 * error(round_trip(weight))
