"""Programs that `build_linear.py` made, on the GPU: loading, launching, operands and meaning (torch, f64)."""

from __future__ import annotations

import base64
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from tests.gpu.rounded_rows import LARGEST, scales_of
from warploom.tools.kernel_launcher import number
from warploom.tools.tuning_runs import LoadedPrograms

TORCH = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f32": torch.float32,
    "f8e4m3": torch.float8_e4m3fn,
    "i8": torch.int8,
    "i32": torch.int32,
}
BLOCKS = (128, 64, 32)  # columns of a block of `row4`: the largest that divides K
Problem = dict[str, Any]
Row = dict[str, Any]
Arrays = dict[str, torch.Tensor]


def compile_one(job: Row) -> Row:
    """What the project's compiler process answers to a job; here in a process of our own."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "codegen" / "cuda"))
    import worker

    try:
        with tempfile.TemporaryDirectory() as folder:
            return worker.compile_job(job, Path(folder))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


class Bench(LoadedPrograms):
    """Programs whose arrays are torch's."""

    def __init__(self, folder: Path) -> None:
        self.torch_stream = torch.cuda.Stream()
        super().__init__(folder, self.torch_stream.cuda_stream)

    def compile_jobs(self) -> None:
        """Compile what the build left, on all cores."""
        begin, done = time.monotonic(), 0
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
            for job, answer in zip(self.jobs, workers.map(compile_one, self.jobs, chunksize=4), strict=True):
                if "error" in answer:
                    print("FAILED to compile", job["name"], answer["error"][:300], flush=True)
                    continue
                (self.folder / f"{job['name']}.cubin").write_bytes(base64.b64decode(answer["cubin"]))
                maps = [(found["box"], found["swizzle"]) for found in answer["tensormaps"]]
                facts = {"num_warps": answer["num_warps"], "shared_bytes": answer["shared_bytes"], "tensormaps": maps}
                self.infos[job["name"]] |= facts
                done += 1
        print(f"compiled {done} of {len(self.jobs)} kernels in {time.monotonic() - begin:.0f} s", flush=True)

    def temps(self, program: Row, limit: int) -> list[torch.Tensor]:
        """Memory for a program's temps: zeros, or garbage that would be seen."""
        made = []
        for temp in program["temps"]:
            shape = [number(extent, limit) for extent in temp["shape"]]
            fill = torch.tensor(0.0 if temp["dtype"] == "i32" else float("nan")).to(TORCH[temp["dtype"]])
            made.append(fill.cuda().expand(shape).clone())
        return made


def addresses(arrays: Arrays) -> dict[str, int]:
    """Where arrays are."""
    return {name: array.data_ptr() for name, array in arrays.items()}


def normal(*shape: int, dtype: str = "bf16", scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale).to(TORCH[dtype])


def make_arrays(p: Problem, tokens: int, weights: int = 1) -> tuple[Arrays, list[Arrays]]:
    """Random operands with room for `tokens`, and several weights."""
    arrays = {
        "x": normal(tokens, p["k"], dtype=p["x"]),
        "gain": normal(p["k"], dtype=p["norm"]["gain"] if p["norm"] else "f32", scale=0.1) + 1,
        "bias": normal(p["n"], dtype=p["bias"] or "f32"),
        "residual": normal(tokens, p["width"], dtype=p["out"]),
        "out": torch.full((tokens, p["width"]), float("nan"), dtype=TORCH[p["out"]], device="cuda"),
    }
    return arrays, [make_weight(p) for _ in range(weights)]


def make_weight(p: Problem) -> Arrays:
    """W, and its scales and offsets if it has any."""
    n, k, weight = p["n"], p["k"], p["weight"]
    if weight["dtype"] == "bf16":
        return {"w": normal(n, k, scale=k**-0.5)}
    sides = (n, weight["groups"])
    if weight["dtype"] == "f8e4m3":
        w, size = normal(n, k, scale=100).clamp(-LARGEST, LARGEST).to(TORCH["f8e4m3"]), 100
    else:
        columns = k // 2 if weight["dtype"] == "i4" else k
        w, size = torch.randint(-128, 128, (n, columns), device="cuda", dtype=torch.int8), 74
        size = 4.6 if weight["dtype"] == "i4" else size
    scale = (0.5 + torch.rand(*sides, device="cuda")) * k**-0.5 / size
    found = {"w": w, "scale": scale.to(TORCH[weight["scale"]])}
    if weight["offset"]:
        found["offset"] = (torch.randn(*sides, device="cuda") * k**-0.5 / 4).to(TORCH[weight["scale"]])
    return found


def values_of(p: Problem, arrays: Arrays) -> torch.Tensor:
    """What W stands for, [n, k]."""
    w, weight = arrays["w"], p["weight"]
    if weight["dtype"] == "i4":
        block = next(size for size in BLOCKS if p["k"] % size == 0)
        blocks = w.view(torch.uint8).view(p["n"], -1, block // 2)
        w = torch.stack((blocks & 15, blocks >> 4), 2).reshape(p["n"], p["k"]).to(torch.int8) - 8
    if not weight["groups"]:
        return w.double()
    values = w.double().view(p["n"], weight["groups"], -1) * arrays["scale"].double()[:, :, None]
    if weight["offset"]:
        values += arrays["offset"].double()[:, :, None]
    return values.view(p["n"], p["k"])


def makes_bf16(program: Row) -> bool:
    """Whether quantized weights become bf16, as they mean, before the product: by a kernel, or in a wide ring."""
    weight, tile = program["problem"]["weight"], program["choice"]["tile"]
    by_row = weight["groups"] == 1 and not weight["offset"]
    scaled_first = tile["type"] == "ring" and tile["block_t"] >= 64 and weight["dtype"] in ("i4", "i8") and not by_row
    return scaled_first or any(step["kernel"].startswith("unpack") for step in program["steps"])


def rounded_by(program: Row, temps: list[torch.Tensor], tokens: int) -> list[torch.Tensor]:
    """Numbers and scales of the rows of x that a program rounded first; empty if it rounds none."""
    first = program["steps"][0]
    return [temps[o][:tokens] for o in first["operands"][-2:]] if first["kernel"].startswith("round_rows") else []


def reference(program: Row, arrays: Arrays, tokens: int, unpacked: bool, rounded: list[torch.Tensor]) -> torch.Tensor:
    """The meaning, in f64, but that rows which a kernel of its own norms are bf16 then, as the meaning allows.

    Args:
        unpacked: quantized weights are made bf16, as `quantized_linear` of bf16 activations says.
        rounded: numbers and scales that stand for the rows after their norm, checked by themselves (`wrong_rows`).
    """
    p = program["problem"]
    x = arrays["x"][:tokens].double()
    if rounded:
        x = rounded[0].double() * rounded[1].double()[:, None]
    elif p["norm"]:
        x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + p["norm"]["eps"]) * arrays["gain"].double()
        if program["steps"][0]["kernel"].startswith("rms_norm"):
            x = x.bfloat16().double()
    if p["rounded"] and not rounded:
        rows = x.bfloat16().float()
        scales = scales_of(rows)[:, None]
        x = (rows / scales).to(TORCH["f8e4m3"]).double() * scales.double()
    w = values_of(p, arrays)
    y = x @ (w.bfloat16().double() if unpacked else w).T
    if p["bias"]:
        y = y + arrays["bias"].double()
    if p["epilogue"] == "swiglu":
        gate, up = y.chunk(2, -1)
        return gate * torch.sigmoid(gate) * up
    return y + arrays["residual"][:tokens].double() if p["epilogue"] == "residual" else y


def in_range(program: Row, tokens: tuple[int, ...]) -> Iterator[int]:
    end = program["end"] or max(tokens)
    yield from (t for t in tokens if program["begin"] <= t <= end)


def label(program: Row) -> str:
    choice = program["choice"]
    tile = " ".join(f"{k}={v}" for k, v in choice["tile"].items() if k != "type" and v)
    fused = " fused_norm" if choice["fused_norm"] and program["problem"]["norm"] else ""
    return f"{choice['tile']['type']} {tile}{fused}"
