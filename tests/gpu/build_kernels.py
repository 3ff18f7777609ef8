"""Compile the kernels that `run_kernels.py` checks and times on a GPU: all but linear layers. Needs no GPU.

    python tests/gpu/build_kernels.py [FOLDER]

writes FOLDER (default `.warploom/gpu/kernels`): `kernels.json`, the cubins, and data with the results that the IR's
meaning has. Nothing there needs the compiler any more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlir.ir as mlir
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.kernel_data import sample_inputs
from tests.tolerances import sensitivity
from tests.unit.codegen.loops_groups import GroupBuilder
from tests.unit.codegen.test_cpu_loops import CORE_OPS
from tests.unit.codegen.test_cpu_loops_groups import SHAPES
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.kernel import CudaKernelSpec, Match, Pointer
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.decode_attention import DecodeAttentionSpec, DecodeTile, decode_tile_for
from warploom.codegen.cuda.kernels.embed import EmbedSpec
from warploom.codegen.cuda.kernels.loops import match
from warploom.codegen.cuda.kernels.ragged_attention import AttentionTile, RaggedAttentionSpec, tile_for
from warploom.codegen.cuda.kernels.rms_norm import RmsNormSpec
from warploom.codegen.cuda.kernels.rope_kv_write import Range, RopeKvWriteSpec
from warploom.codegen.cuda.kernels.sample import SampleSpec
from warploom.codegen.cuda.kernels.top_logprobs import TopLogprobsSpec
from warploom.ir.context import new_context
from warploom.ir.interpreter import evaluate
from warploom.ir.ops.sample import sample
from warploom.ir.types import DType, tensor, type_of

TARGET = CudaTarget("sm_90")
BF16, F32 = DType.BF16, DType.F32
Case = dict[str, Any]

# (query heads, kv heads, head_dim, window)
ATTENTION = [
    (32, 8, 128, 0),
    (9, 3, 64, 0),
    (8, 8, 64, 0),
    (4, 2, 80, 0),
    (12, 4, 96, 0),
    (14, 2, 128, 0),
    (16, 1, 64, 0),
    (8, 4, 256, 0),
    (8, 1, 128, 0),
    (8, 2, 128, 200),
    (15, 3, 64, 77),
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


def describe(spec: Any) -> Case:
    """What a launcher has to know of a spec."""
    names = [operand.name for operand in spec.operands]
    assert all(isinstance(operand, Pointer) for operand in spec.operands)
    temps = getattr(spec, "temps", ())
    first = {"decode": 5, "sample": 14, "top_lo": 1}.get(spec.name[:6], 0)
    described = [
        {"name": name, "shape": [str(d) for d in t.type.shape], "dtype": str(t.type.dtype), "zeroed": t.zeroed}
        for name, t in zip(names[first:], temps, strict=False)
    ]
    return {
        "operands": names,
        "dims": list(spec.dims),
        "grid": [str(extent) for extent in spec.grid],
        "pdl": spec.options.pdl,
        "temps": described,
    }


def attention_cases(collection: Collection) -> None:
    """Every shape to check with its own tiles; Llama-3.1-8B's with many to time."""
    for heads, kv_heads, head_dim, window in ATTENTION:
        problem = AttentionProblem(heads, kv_heads, head_dim, head_dim**-0.5, window)
        facts = asdict(problem)
        collection.add(
            "decode", "check", [DecodeAttentionSpec(problem, decode_tile_for(problem, TARGET), True)], problem=facts
        )
        collection.add(
            "ragged", "check", [RaggedAttentionSpec(problem, tile_for(problem, TARGET), True)], problem=facts
        )
    problem = AttentionProblem(*ATTENTION[0][:3], scale=128**-0.5)
    for tile in DECODE_TILES:
        spec = DecodeAttentionSpec(problem, tile, True)
        collection.add("decode", "bench", [spec], problem=asdict(problem), tile=asdict(tile))
    for ragged in RAGGED_TILES:
        spec = RaggedAttentionSpec(problem, ragged, True)
        collection.add("ragged", "bench", [spec], problem=asdict(problem), tile=asdict(ragged))


def simple_cases(collection: Collection) -> None:
    """Rotary embedding, embedding and norm."""
    for heads, kv_heads, size in ((32, 8, 128), (9, 3, 64), (4, 2, 80), (12, 4, 96), (8, 4, 256)):
        width = (heads + 2 * kv_heads) * size
        starts = 0, heads * size, (heads + kv_heads) * size
        spec = RopeKvWriteSpec(heads, kv_heads, size, BF16, BF16, *(Range(s, width) for s in starts), pdl=True)
        shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": size}
        collection.add("rope", "bench" if heads == 32 else "check", [spec], shape=shape)
    for rows, columns in ((128256, 4096), (49152, 576)):
        for out in (BF16, F32):
            spec = EmbedSpec(rows, columns, BF16, out, pdl=True)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        described[kernel.name] = describe(spec) | asdict(kernel.resources)
        (folder / f"{kernel.name}.cubin").write_bytes(kernel.cubin)
        if excess := kernel.resources.excess(TARGET):
            print(f"{kernel.name}: {excess}")
    (folder / "kernels.json").write_text(json.dumps({"cases": collection.cases, "kernels": described}))


if __name__ == "__main__":
    main()
