"""Compile the kernels that `run_kernels.py` checks and times on a GPU: all but linear layers. Needs no GPU.

    python -m tests.gpu.build_kernels [FOLDER]

writes FOLDER (default `.warploom/gpu/kernels`): `kernels.json`, the cubins, and data with the results that the IR's
meaning has. Nothing there needs the compiler any more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlir.ir as mlir
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu import arguments
from tests.gpu.kernel_data import sample_inputs
from tests.tolerances import sensitivity
from tests.unit.codegen.loops_groups import GroupBuilder
from tests.unit.codegen.test_cpu_loops import CORE_OPS
from tests.unit.codegen.test_cpu_loops_groups import SHAPES
from warploom.codegen.columns import Range
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import CompiledKernel, compile_kernels
from warploom.codegen.cuda.kernel import CudaKernelSpec, Match, TensorMap
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.decode_attention import (
    DecodeAttentionSpec,
    DecodeTile,
    decode_tile_for,
    few_sequences,
)
from warploom.codegen.cuda.kernels.embed import EmbedSpec
from warploom.codegen.cuda.kernels.hopper_attention import HopperAttentionSpec, takes
from warploom.codegen.cuda.kernels.linear_problem import Weight
from warploom.codegen.cuda.kernels.loops import match
from warploom.codegen.cuda.kernels.projection import Projection
from warploom.codegen.cuda.kernels.ragged_attention import AttentionTile, RaggedAttentionSpec, tile_for
from warploom.codegen.cuda.kernels.rms_norm import RmsNormSpec
from warploom.codegen.cuda.kernels.rope_kv_write import RopeKvWriteSpec
from warploom.codegen.cuda.kernels.sample import SampleSpec
from warploom.codegen.cuda.kernels.top_logprobs import TopLogprobsSpec
from warploom.ir.context import new_context
from warploom.ir.interpreter import evaluate
from warploom.ir.ops.sample import sample
from warploom.ir.types import DType, tensor, type_of

TARGET = CudaTarget("sm_90")
BF16, F32 = DType.BF16, DType.F32
Case = dict[str, Any]


def attention_of(heads: int, kv_heads: int, size: int, window: int = 0, **more: Any) -> AttentionProblem:
    """A problem of the usual scale."""
    return AttentionProblem(heads, kv_heads, size, size**-0.5, window, **more)


def projected(heads: int, kv_heads: int, size: int, window: int = 0, half: int = 0, **more: Any) -> AttentionProblem:
    """The same, with rotation and cache write: q, k and v side by side in one matrix."""
    width = (heads + 2 * kv_heads) * size
    q, k, v = (Range(start * size, width) for start in (0, heads, heads + kv_heads))
    return attention_of(heads, kv_heads, size, window, projection=Projection(q, k, v, half or size // 2), **more)


LLAMA = attention_of(32, 8, 128)
ATTENTION = [
    LLAMA,
    attention_of(9, 3, 64),
    attention_of(8, 8, 64),
    attention_of(4, 2, 80),
    attention_of(12, 4, 96),
    attention_of(14, 2, 128),
    attention_of(16, 1, 64),
    attention_of(8, 4, 256),
    attention_of(8, 1, 128),
    attention_of(8, 2, 128, 200),
    attention_of(15, 3, 64, 77),
    attention_of(8, 4, 256, softcap=20.0),
    attention_of(64, 8, 64, 128, sinks=BF16),
    projected(32, 8, 128),
    projected(9, 3, 64),
    projected(4, 2, 80, half=10),
    projected(8, 4, 256, 100, softcap=30.0),
    projected(16, 2, 64, sinks=F32),
    attention_of(8, 2, 64, kv=DType.F8),
    projected(32, 8, 128, kv=DType.F8),
    attention_of(8, 2, 64, kv=DType.F8, scaled=True),
    attention_of(8, 4, 256, softcap=20.0, kv=DType.F8, scaled=True),
    projected(32, 8, 128, kv=DType.F8, scaled=True),
    projected(16, 2, 64, softcap=30.0, sinks=F32, kv=DType.F8, scaled=True),
    projected(8, 4, 80, 100, kv=DType.F8, scaled=True),
    attention_of(14, 2, 128, kv=DType.I8),
    attention_of(4, 2, 80, 77, kv=DType.I8),
    attention_of(8, 4, 256, softcap=20.0, kv=DType.I8),
    attention_of(64, 8, 64, 128, sinks=BF16, kv=DType.I8),
    projected(32, 8, 128, kv=DType.I8),
    projected(9, 3, 64, kv=DType.I8),
    projected(8, 4, 256, 100, softcap=30.0, kv=DType.I8),
]
DECODE_TILES = [
    DecodeTile(blocks, min_keys, warps, stages)
    for warps, stages in ((4, 3), (4, 4), (8, 4))
    for blocks, min_keys in ((512, 256), (1024, 128))
]
RAGGED_TILES = [
    AttentionTile(128, 128, 8, 3),
    AttentionTile(128, 64, 8, 3),
    AttentionTile(64, 64, 4, 3),
]


class Collection:
    """Cases, and the kernels that they run."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self.specs: dict[str, CudaKernelSpec] = {}

    def add(self, family: str, use: str, specs: Sequence[Any], **facts: Any) -> None:
        """A case that runs the kernels of some specs, one after another."""
        for spec in specs:
            self.specs[spec.name] = spec
        self.cases.append({"family": family, "use": use, "kernels": [spec.name for spec in specs], **facts})


def describe(spec: Any, kernel: CompiledKernel) -> Case:
    """What a launcher has to know of a kernel."""
    names = [operand.name for operand in spec.operands]
    first = next((names.index(name) for name in ("parts", "adjusted", "chunks") if name in names), 0)
    temps = dict(zip(names[first:], getattr(spec, "temps", ()), strict=False))
    if isinstance(spec, HopperAttentionSpec):
        temps = spec.scratch
    described = [
        {"name": name, "shape": [str(d) for d in t.type.shape], "dtype": str(t.type.dtype), "zeroed": t.zeroed}
        for name, t in temps.items()
    ]
    maps = [operand for operand in spec.operands if isinstance(operand, TensorMap)]
    return {
        "operands": names,
        "maps": {
            operand.name: {"dtype": str(operand.dtype), "shape": list(map(str, operand.shape)), "place": place}
            for operand, place in zip(maps, kernel.tensormaps, strict=True)
        },
        "dims": list(spec.dims),
        "grid": [str(extent) for extent in spec.grid],
        "pdl": spec.options.pdl,
        "temps": described,
    }


def facts_of(problem: AttentionProblem) -> Case:
    """A problem in JSON."""
    return {**asdict(problem), "sinks": problem.sinks and str(problem.sinks), "kv": str(problem.kv)}


def decode_cases(collection: Collection, use: str, problem: AttentionProblem) -> None:
    """A problem with the tiles that artifacts take, by the number of sequences."""
    few = few_sequences(problem, TARGET)
    for tile in (decode_tile_for(problem, TARGET), *([few[1]] if few else [])):
        collection.add("decode", use, [DecodeAttentionSpec(problem, tile, True)], problem=facts_of(problem))


def attention_cases(collection: Collection) -> None:
    """Every shape to check with its own tiles; Llama-3.1-8B's with many to time."""
    for problem in ATTENTION:
        facts = facts_of(problem)
        before = []
        if problem.projection is not None:
            written = replace(problem.projection, q=None)
            shape = 0, problem.num_kv_heads, problem.head_dim
            before.append(RopeKvWriteSpec(*shape, BF16, problem.kv, written, True, problem.scaled))
        ragged = RaggedAttentionSpec(problem, tile_for(problem, TARGET), True)
        decode_cases(collection, "check", problem)
        collection.add("ragged", "check", [*before, ragged], problem=facts)
        if takes(problem, TARGET):
            hopper = HopperAttentionSpec(problem)
            left = [replace(spec, fresh=hopper.fresh) for spec in before]
            collection.add("hopper", "check", [*left, hopper], problem=facts)
    for stages, keys in ((2, 128), (4, 64)):
        collection.add("hopper", "bench", [HopperAttentionSpec(LLAMA, keys, stages)], problem=facts_of(LLAMA))
    for tile in DECODE_TILES:
        spec = DecodeAttentionSpec(LLAMA, tile, True)
        collection.add("decode", "bench", [spec], problem=facts_of(LLAMA), tile=asdict(tile))
    for fused in (projected(32, 8, 128, kv=dtype, scaled=dtype is DType.F8) for dtype in (BF16, DType.F8, DType.I8)):
        if takes(fused, TARGET):
            collection.add("hopper", "bench", [HopperAttentionSpec(fused)], problem=facts_of(fused))
        decode_cases(collection, "bench", fused)
    for narrow in (attention_of(32, 8, 128, kv=dtype) for dtype in (DType.F8, DType.I8)):
        ragged = RaggedAttentionSpec(narrow, tile_for(narrow, TARGET), True)
        collection.add("ragged", "bench", [ragged], problem=facts_of(narrow))
    for ragged_tile in RAGGED_TILES:
        collection.add("ragged", "bench", [RaggedAttentionSpec(LLAMA, ragged_tile, True)], problem=facts_of(LLAMA))


def simple_cases(collection: Collection) -> None:
    """Rotary embedding, embedding and norm."""
    for heads, kv_heads, size in ((32, 8, 128), (9, 3, 64), (4, 2, 80), (12, 4, 96), (8, 4, 256)):
        width = (heads + 2 * kv_heads) * size
        starts = 0, heads * size, (heads + kv_heads) * size
        q, k, v = (Range(start, width) for start in starts)
        rope = RopeKvWriteSpec(heads, kv_heads, size, BF16, BF16, Projection(q, k, v, size // 2), pdl=True)
        shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": size}
        collection.add("rope", "bench" if heads == 32 else "check", [rope], shape=shape)
    for rows, columns in ((128256, 4096), (49152, 576)):
        for out in (BF16, F32):
            spec = EmbedSpec(rows, columns, Weight(BF16), out, pdl=True)
            collection.add("embed", "bench", [spec], rows=rows, columns=columns, out=str(out))
    for columns in (4096, 576):
        norm = RmsNormSpec(columns, BF16, BF16, BF16, 1e-5, True)
        collection.add("norm", "bench", [norm], columns=columns)


def sampling_cases(collection: Collection, folder: Path) -> None:
    """Expected tokens come from the meaning of `sample`; `ties` are rows where f64 decides otherwise."""
    for vocab_size, rows in ((128256, 48), (49152, 24), (262144, 6), (1000, 24)):
        inputs = sample_inputs(7, rows, vocab_size)
        tokens, logprobs = sample.evaluate(*inputs.values())
        wide = [array.astype(np.float64) if array.dtype == np.float32 else array for array in inputs.values()]
        ties = sample.evaluate(*wide)[0] != tokens
        spec = SampleSpec(vocab_size, pdl=True)
        facts = {"tokens": tokens.tolist(), "logprobs": logprobs.tolist(), "ties": ties.tolist()}
        collection.add("sample", "check", [spec], rows=rows, vocab=vocab_size, expected=facts)
        collection.add(
            "top_logprobs", "check", [TopLogprobsSpec(vocab_size, 20, pdl=True)], rows=rows, vocab=vocab_size
        )
    for chunk in (2048, 4096):
        collection.add("sample", "bench", [SampleSpec(128256, True, chunk)], vocab=128256, chunk=chunk)
        collection.add("top_logprobs", "bench", [TopLogprobsSpec(128256, 20, True, chunk)], vocab=128256, chunk=chunk)


def loops_cases(collection: Collection, folder: Path) -> None:
    """Every core op, and groups of models, with their data."""
    with new_context(), mlir.Location.unknown():
        for number, (name, builder) in enumerate(_groups()):
            bound = {d for argument in builder.point.block.arguments for d in type_of(argument).shape}
            for symbol in sorted({"T", "S"} - set(map(str, bound))):
                builder.input(tensor((symbol,)), 0, 1)
            results = builder.results
            function = builder.builder.finish({str(i): v for i, v in enumerate(results)})
            found = match(function, TARGET)
            if not isinstance(found, Match):
                continue
            expected = evaluate(builder.module, builder.name, builder.arrays)
            exact = evaluate(builder.module, builder.name, builder.arrays, compute=np.float64)
            arrays = {f"in{n}": a for n, a in builder.arrays.items()}
            arrays |= {f"out{n}": a for n, a in expected.items()}
            losses = {f"out{n}": sensitivity(a, exact[n], DType.of(a)) for n, a in expected.items()}
            kinds = {n: str(DType.of(a)) for n, a in arrays.items()}
            bits = {n: a.view(np.int16) if kinds[n] == "bf16" else a for n, a in arrays.items()}
            np.savez(folder / f"loops_{number}.npz", **bits)
            steps = [step.spec for step in found.variants[0].steps]
            dims = {d: builder.env[d] for d in ("S", "T")}
            facts = {"name": name, "data": f"loops_{number}.npz", "kinds": kinds, "losses": losses, "dims": dims}
            collection.add("loops", "check", steps, **facts)


def _groups() -> Iterator[tuple[str, Any]]:
    bodies = [(op, seed, None) for op in CORE_OPS for seed in range(2)]
    bodies += [(name, 1, body) for name, body in SHAPES.items()]
    for name, seed, body in bodies:
        builder: Any = GroupBuilder(mlir.Module.create(), f"{name}_{seed}", seed)
        with builder.point:
            made = builder.build(name) if body is None else body(builder)
        builder.results = list(made) if isinstance(made, Sequence) else [made]
        yield name, builder


def main() -> None:
    """Build."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".warploom/gpu/kernels"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    collection = Collection()
    attention_cases(collection)
    simple_cases(collection)
    sampling_cases(collection, folder)
    loops_cases(collection, folder)
    specs = list(collection.specs.values())
    print(f"{len(collection.cases)} cases, {len(specs)} kernels", flush=True)
    kernels = compile_kernels(specs, TARGET, lambda done: None, refuse_excess=False)
    described = {}
    for spec, kernel in zip(specs, kernels, strict=True):
        described[kernel.name] = describe(spec, kernel) | asdict(kernel.resources)
        (folder / f"{kernel.name}.cubin").write_bytes(kernel.cubin)
        if excess := kernel.resources.excess(TARGET):
            print(f"{kernel.name}: {excess}")
    (folder / "kernels.json").write_text(json.dumps({"cases": collection.cases, "kernels": described}))


if __name__ == "__main__":
    main()
