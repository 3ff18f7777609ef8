"""One kernel for the layers of a step of one token: which launches it takes the place of, and what it hands on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlir.ir as mlir
import msgspec
import pytest

from warploom.codegen.cuda import driver
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.driver import CudaProgram, plan_program, without_excess
from warploom.codegen.cuda.kernel import CudaKernelSpec
from warploom.codegen.cuda.persistent.chain import Chain, longest_chain
from warploom.codegen.cuda.persistent.phases import Attention, Gemv, Phase
from warploom.codegen.cuda.persistent.replace import replace_by_one
from warploom.codegen.cuda.persistent.spec import PersistentSpec
from warploom.codegen.cuda.persistent.split import LAYER, Split, split_of
from warploom.codegen.cuda.resources import Resources
from warploom.codegen.cuda.target import K_LAYOUT, PAGE_SIZE, cuda
from warploom.frontend.dummy import dummy_tensor
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.trace import Limits, trace
from warploom.ir.context import new_context
from warploom.ir.types import DType
from warploom.passes.pipeline import pipeline, run
from warploom.runtime.cuda.replacements import chosen_launches
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import Entry, Launch
from warploom.tools.reports import running

SMOLLM2 = json.loads((Path(__file__).parents[2] / "golden" / "smollm2-135m.json").read_text())
LAYERS = 5
HOPPER = CudaTarget("sm_90")


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ("", None),
        ("abc", None),
        ("aab", Chain(0, 1, 2)),
        ("xababay", Chain(1, 2, 2)),
        ("xabcabcabcz", Chain(1, 3, 3)),
        ("aaaa", Chain(0, 1, 4)),
        ("aabaab", Chain(0, 3, 2)),
    ],
)
def test_the_longest_sequence_that_repeats_is_found(kernels: str, expected: Chain | None) -> None:
    assert longest_chain(list(kernels)) == expected


def test_nothing_repeats_across_what_is_no_phase() -> None:
    assert longest_chain(["a", "b", None, "a", "b"]) is None


def program_of(target: CudaTarget, **changes: Any) -> CudaProgram:
    with new_context(), mlir.Location.unknown():
        cache_spec = CacheSpec(PAGE_SIZE, DType.BF16, K_LAYOUT)
        limits = Limits(max_tokens=8192, max_sequences=256, max_context=8192)
        config = {**SMOLLM2, "num_hidden_layers": LAYERS, **changes}
        module = trace(config, dummy_tensor, cache_spec, limits, DType.BF16)
        assert list(run(module, pipeline(cuda(target), "bf16")))
        return plan_program(module, target)


@cache
def smollm2() -> CudaProgram:
    return program_of(HOPPER)


def specs(program: CudaProgram) -> Mapping[str, CudaKernelSpec]:
    return {name: chosen.spec for name, chosen in program.kernels.items()}


def persistent(program: CudaProgram) -> PersistentSpec:
    (spec,) = (spec for spec in specs(program).values() if isinstance(spec, PersistentSpec))
    return spec


def launched(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, replacements=[])


def refusal(entry: Entry, target: CudaTarget = HOPPER) -> str:
    found = replace_by_one(launched(entry), specs(smollm2()), target)
    assert isinstance(found, str)
    return found


def test_the_layers_of_a_step_of_one_token_are_one_kernel() -> None:
    step = smollm2().entries["step"]
    (replacement,) = step.replacements
    assert {step.launches[place].location.split(".")[2] for place in replacement.replaces} == set("01234")
    assert len(replacement.replaces) == 5 * LAYERS
    chosen = chosen_launches(step, 132)
    left = [one.launch for one in chosen if one.unless is None]
    after = left[left.index(replacement.launch) + 1 :]
    assert next(launch.location for launch in after if launch.when is None) == "model.norm"
    assert replacement.launch.location == "model.layers"


def test_phases_are_the_kernels_of_a_layer() -> None:
    spec = persistent(smollm2())
    assert [type(phase) for phase in spec.phases] == [Gemv, Attention, Gemv, Gemv, Gemv]
    assert spec.repetitions == LAYERS


def test_clusters_share_a_layer() -> None:
    split = persistent(smollm2()).split
    assert split == Split(hidden=576, inner=1536, heads=3, group=3, parts=12, gain_bytes=2)
    assert split.clusters * split.blocks == persistent(smollm2()).grid[0] == 120
    assert split.head_rows * split.blocks == (3 + 1 + 1) * 64
    assert split.gates * split.blocks * split.parts == 1536
    assert split.slice * split.blocks == 576
    assert split.shared_bytes <= HOPPER.shared_bytes
    layer = 2 * (3 * 64 * 5 * 576 + 576 * 576 + 3 * 1536 * 576)
    norms = 2 * 576
    blocks = split.blocks
    assert blocks * (3 * (split.head_bytes - norms) + 12 * (split.part_bytes - norms)) == layer


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8}, "widths must be multiples of 64"),
        ({"num_attention_heads": 9, "num_key_value_heads": 1}, "heads have a key"),
        ({"intermediate_size": 8192}, "warps that multiply"),
        ({"intermediate_size": 1064}, "no way to share"),
    ],
)
def test_models_that_clusters_cannot_share_are_told_why(changes: dict[str, int], why: str) -> None:
    program = program_of(HOPPER, **changes)
    found = replace_by_one(launched(program.entries["step"]), specs(program), HOPPER)
    assert isinstance(found, str)
    assert why in found


def test_what_clusters_hand_on_has_room() -> None:
    spec, step = persistent(smollm2()), smollm2().entries["step"]
    (exchange,) = (buffer for buffer in step.buffers if buffer.name.endswith("exchange"))
    assert exchange.kind == "zeroed"
    assert exchange.shape == [LAYERS * (3 + 12) * 576]
    begin, end = (evaluate(size, {"S": 7}) for size in (exchange.offset or 0, step.zeroed_bytes))
    assert begin % 64 == 0
    assert end - begin == 4 * spec.exchange_words


def test_the_table_holds_every_layers_weights_and_cache() -> None:
    spec, step = persistent(smollm2()), smollm2().entries["step"]
    table = step.replacements[0].launch.operands[: LAYERS * len(spec.columns)]
    row = table[len(spec.columns) : 2 * len(spec.columns)]
    assert [name.removeprefix("model.layers.1.") for name in row] == [
        "input_layernorm.weight",
        "self_attn.{q,k,v}_proj.weight",
        "kv + 49152 * C",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.{gate,up}_proj.weight",
        "mlp.down_proj.weight",
    ]
    assert len(set(table)) == len(table)


def test_its_source_is_a_kernel_of_clusters() -> None:
    spec = persistent(smollm2())
    (kernel,) = compile_kernels([spec], HOPPER)
    assert f".entry {spec.name}(" in kernel.ptx
    assert ".reqnctapercluster 8, 1, 1" in kernel.ptx
    assert f".maxntid {32 * spec.options.num_warps}" in kernel.ptx
    assert kernel.resources.shared_bytes == spec.split.shared_bytes
    assert not kernel.ttir
    assert all(line == line.rstrip() and len(line) <= 120 for line in kernel.source.splitlines())


def test_others_with_its_shape_have_it_too() -> None:
    changes = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 1408}
    spec = persistent(program_of(HOPPER, **changes))
    assert spec.split == Split(hidden=512, inner=1408, heads=4, group=2, parts=11, gain_bytes=2)
    (kernel,) = compile_kernels([spec], HOPPER)
    assert kernel.resources.excess(HOPPER) is None


def test_gains_may_be_f32_as_those_of_gguf_checkpoints() -> None:
    spec = persistent(smollm2())
    phases = tuple(with_gains(phase, DType.F32) for phase in spec.phases)
    split = split_of(phases, LAYER)
    assert split == replace(spec.split, gain_bytes=4)
    assert split.part_bytes - spec.split.part_bytes == 2 * 576
    assert split.shared_bytes <= HOPPER.shared_bytes
    (kernel,) = compile_kernels([replace(spec, phases=phases, split=split)], HOPPER)
    assert kernel.resources.excess(HOPPER) is None
    assert split_of((*phases[:3], *spec.phases[3:]), LAYER) == "gains of both norms must be of one dtype"


def with_gains(phase: Phase, dtype: DType) -> Phase:
    if not isinstance(phase, Gemv) or phase.problem.norm is None:
        return phase
    return replace(phase, problem=replace(phase.problem, norm=replace(phase.problem.norm, gain=dtype)))


def test_what_is_not_measured_or_promises_more_stays_as_it_is() -> None:
    step = smollm2().entries["step"]
    assert "not been measured" in refusal(step, CudaTarget("sm_100"))
    assert "number of tokens" in refusal(step, CudaTarget("sm_90", deterministic=True))
    assert not program_of(HOPPER, num_hidden_layers=3).entries["step"].replacements
    assert not program_of(HOPPER, head_dim=128).entries["step"].replacements


def test_a_kernel_that_would_spill_leaves_the_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    program, spec = smollm2(), persistent(smollm2())

    def compiled(specs: Sequence[CudaKernelSpec], target: CudaTarget, refuse_excess: bool) -> list[SimpleNamespace]:
        assert list(specs) == [spec]
        assert not refuse_excess
        return [SimpleNamespace(name=spec.name, resources=Resources(8, 0, 255, spilled))]

    monkeypatch.setattr(driver, "compile_kernels", compiled)
    spilled = 64
    assert without_excess(program, HOPPER) == program
    spilled = 448
    kept = without_excess(program, HOPPER)
    assert not kept.entries["step"].replacements
    assert kept.kernels.keys() == program.kernels.keys() - {spec.name}


def changed(entry: Entry, place: int, launch: Launch) -> Entry:
    launches = [launch if i == place else one for i, one in enumerate(entry.launches)]
    return msgspec.structs.replace(launched(entry), launches=launches)


def test_a_value_that_others_read_is_not_taken_away() -> None:
    step = smollm2().entries["step"]
    gather = next(i for i, launch in enumerate(step.launches) if launch.location == "model.norm")
    inner = next(launch for launch in step.launches if launch.location == "model.layers.2.mlp").operands[-1]
    launch = step.launches[gather]
    spoiled = changed(step, gather, msgspec.structs.replace(launch, operands=[inner, *launch.operands[1:]]))
    assert "is read elsewhere" in refusal(spoiled)


def test_a_launch_in_between_that_touches_what_goes_in_is_in_the_way() -> None:
    step = smollm2().entries["step"]
    angles = next(i for i, launch in enumerate(step.launches) if launch.location == "model.rotary_emb")
    first = step.launches[step.replacements[0].replaces[0]].operands[0]
    launch = step.launches[angles]
    spoiled = changed(step, angles, msgspec.structs.replace(launch, operands=[launch.operands[0], first, first]))
    assert "stands between" in refusal(spoiled)


def test_reports_show_what_runs() -> None:
    step, spec = smollm2().entries["step"], persistent(smollm2())
    one = {"C": 8, "P": 1, "R": 1, "S": 1, "T": 1}
    assert [launch.location for launch in running(step, one) if launch.location.startswith("model.layers")] == [
        "model.layers"
    ]
    several = running(step, one | dict.fromkeys("RST", 2))
    assert spec.name not in {launch.kernel for launch in several}
    assert len({launch.location for launch in several if launch.location.startswith("model.layers.")}) == 2 * LAYERS
