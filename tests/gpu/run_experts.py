"""Check and time the kernels that `build_experts.py` compiled. Runs on the GPU machine.

    python -m tests.gpu.run_experts FOLDER [SECONDS]

torch allocates, draws random numbers and is the oracle (f32). Timed: graphs of many launches with programmatic
dependent launch, whose tokens go to other experts each time, medians; beside them the time that the bytes of the
experts that are met take, or the flops. Exit status 1 if a check failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.gpu import arguments
from tests.gpu.linear_programs import Bench as LinearBench
from tests.gpu.linear_programs import make_weight, values_of
from warploom.tools.kernel_launcher import Graph, number

READ, PEAK = 3.17e12, 798e12  # of an H100, measured: bytes/s, flop/s
TOKENS = (1, 2, 3, 5, 8, 17, 33, 130, 300, 520, 1100, 2048)
TIMED = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
SWEPT = (8, 300)  # of candidates, checked
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32, "i32": torch.int32}
ROTATED = 24  # sets of experts
Row = dict[str, Any]
Arrays = dict[str, torch.Tensor]


def make_arrays(p: Row, room: int) -> Arrays:
    """Random operands."""
    first, second = p["first"], p["second"]
    out = DTYPES[p["out"]]

    arrays = {
        "x": torch.randn(room, first["k"], device="cuda", dtype=torch.bfloat16),
        "shares": torch.rand(room, first["choices"], device="cuda"),
        "residual": torch.randn(room, second["n"], device="cuda").to(out),
        "out": torch.full((room, second["n"]), float("nan"), device="cuda", dtype=out),
    }
    for name, part in (("first", first), ("second", second)):
        weight = make_weight(part | {"n": part["experts"] * part["n"]})
        if is_mxfp4(part):
            weight["scale"] = torch.randint(119, 123, weight["scale"].shape, device="cuda").to(torch.int8)
        arrays |= {f"{name}_{key}": array for key, array in weight.items()}
        arrays[f"{name}_bias"] = torch.randn(part["experts"], part["n"], device="cuda", dtype=torch.bfloat16)
    return arrays


def choose(p: Row, tokens: int) -> torch.Tensor:
    """Different experts for every token, at random."""
    first = p["first"]
    return torch.rand(tokens, first["experts"], device="cuda").argsort(1)[:, : first["choices"]].int().contiguous()


def is_mxfp4(part: Row) -> bool:
    """Whether scales are exponents."""
    return bool(part["weight"]["scale"] == "i8")


def mxfp4_values(part: Row, w: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What E2M1 in `row4` and E8M0 stand for, f32 [n, k]."""
    plain = part | {"weight": part["weight"] | {"groups": 0, "offset": False}}
    codes = (values_of(plain, {"w": w}) + 8).long()
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], device="cuda")
    values = table[codes & 7] * (1 - 2 * (codes >> 3))
    return (values.view(*scale.shape, -1) * torch.exp2(scale.float() - 127)[:, :, None]).view(codes.shape)


def matrices(part: Row, arrays: Arrays, name: str) -> Callable[[int], torch.Tensor]:
    """What the weight of an expert stands for, f32 [n, k]."""

    def of(expert: int) -> torch.Tensor:
        rows = slice(expert * part["n"], (expert + 1) * part["n"])
        if is_mxfp4(part):
            return mxfp4_values(part, arrays[f"{name}_w"][rows], arrays[f"{name}_scale"][rows])
        return values_of(
            part, {key: arrays[f"{name}_{key}"][rows] for key in ("w", "scale") if f"{name}_{key}" in arrays}
        ).float()

    return of


def reference(p: Row, arrays: Arrays, tokens: int) -> torch.Tensor:
    """The meaning, expert by expert, in f32."""
    first, second = p["first"], p["second"]
    x, experts, shares = arrays["x"][:tokens].float(), arrays["experts"][:tokens], arrays["shares"][:tokens]
    total = torch.zeros(tokens, second["n"], device="cuda")
    if p["residual"]:
        total += arrays["residual"][:tokens].float()
    w = [matrices(p[name], arrays, name) for name in ("first", "second")]
    for expert in experts.unique().tolist():
        token, place = (experts == expert).nonzero(as_tuple=True)
        both = x[token] @ w[0](expert).T
        if first["bias"]:
            both += arrays["first_bias"][expert].float()
        gate, up = both.chunk(2, 1)
        if first["gate"]["limit"] is None:
            inner = gate * torch.sigmoid(gate) * up
        else:
            limit = first["gate"]["limit"]
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
            inner = gate * torch.sigmoid(first["gate"]["alpha"] * gate) * (up + 1)
        y = inner @ w[1](expert).T
        if second["bias"]:
            y += arrays["second_bias"][expert].float()
        total.index_add_(0, token, y * shares[token, place, None])
    return total


class Bench(LinearBench):
    """Programs whose arrays are torch's."""

    def temps(self, program: Row, room: int) -> list[torch.Tensor]:
        """Memory for a program's temps: garbage that would be seen."""
        made = []
        for temp in program["temps"]:
            shape = [number(extent, room) for extent in temp["shape"]]
            fill = -1 if temp["dtype"] == "i32" else float("nan")
            made.append(torch.full(shape, fill, device="cuda", dtype=DTYPES[temp["dtype"]]))
        return made

    def check(self, program: Row, arrays: Arrays, tokens: int, room: int) -> list[str]:
        """What is wrong."""
        p = program["problem"]
        arrays["experts"] = torch.full((room, p["first"]["choices"]), -7, device="cuda", dtype=torch.int32)
        arrays["experts"][:tokens] = choose(p, tokens)
        arrays["out"].fill_(float("nan"))
        temps = self.temps(program, room)
        addresses = {name: array.data_ptr() for name, array in arrays.items()}
        launches = self.launches(program, addresses, [temp.data_ptr() for temp in temps], tokens, room)
        runs = []
        for _ in range(2):
            torch.cuda.synchronize()
            for launch in launches:
                launch(self.stream)
            torch.cuda.synchronize()
            runs.append(arrays["out"].clone())
        expected = reference(p, arrays, tokens)
        scale = expected.square().mean().sqrt()
        wrong = ((runs[0][:tokens].float() - expected).abs() / (scale + expected.abs() / 4)).nan_to_num(1e9)
        failures = []
        if wrong.max() > 0.03 or wrong.mean() > 0.004:
            failures.append(f"error {float(wrong.max()):.3g} (mean {float(wrong.mean()):.3g})")
        if not torch.equal(runs[0][:tokens], runs[1][:tokens]):
            failures.append("two runs differ")
        if not runs[0][tokens:].isnan().all():
            failures.append("rows past the tokens were written")
        return failures

    def microseconds(self, program: Row, arrays: Arrays, tokens: int, room: int) -> tuple[float, float]:
        """Of one run, and the limit."""
        p = program["problem"]
        temps = self.temps(program, room)  # which must live until the last replay
        addresses_of_temps = [temp.data_ptr() for temp in temps]
        chosen = [choose(p, tokens) for _ in range(ROTATED)]
        launches = []
        for experts in chosen:
            addresses = {name: array.data_ptr() for name, array in (arrays | {"experts": experts}).items()}
            launches += self.launches(program, addresses, addresses_of_temps, tokens, room)
        graph = Graph(launches, self.stream)
        graph.replay()
        found = self.timer.times(graph.replay, 5)
        graph.destroy()
        del temps
        met = sum(len(experts.unique()) for experts in chosen) / ROTATED
        pairs = tokens * p["first"]["choices"]
        flops = 2 * pairs * sum(p[name]["n"] * p[name]["k"] for name in ("first", "second"))
        return found[len(found) // 2] / ROTATED, 1e6 * max(met * program["weight_bytes"] / READ, flops / PEAK)


def label(program: Row) -> str:
    """The tiles of both products."""
    return " | ".join(" ".join(f"{k}={v}" for k, v in tile.items()) for tile in program["choice"])


def main() -> int:
    """Check, then time."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float, nargs="?", default=60.0, help="for timings")
    given = parser.parse_args()
    bench = Bench(given.folder)
    if bench.jobs:
        bench.compile_jobs()
    deadline = time.monotonic() + given.seconds
    torch.manual_seed(0)
    failed, arrays, known = 0, {}, ""
    for program in bench.programs:
        p, end = program["problem"], program["end"] or 1 << 30
        if known != str(p):
            arrays, known = make_arrays(p, 4224), str(p)
        checked = program["use"] != "sweep"
        for tokens in (t for t in TOKENS if program["begin"] <= t <= end and (checked or t in SWEPT)):
            try:
                failures = bench.check(program, arrays, tokens, 4224)
            except RuntimeError as error:
                failures = [str(error)]
            failed += bool(failures)
            if failures:
                print("FAILED", program["name"], tokens, label(program), failures, flush=True)
        if (program["use"] != "check" or program["name"] == "qwen3_30b") and time.monotonic() < deadline:
            for tokens in (t for t in TIMED if program["begin"] <= t <= end):
                us, limit = bench.microseconds(program, arrays, tokens, 4224)
                print(f"{program['name']} {tokens:5} {us:8.1f} us  limit {limit:7.1f}  {label(program)}", flush=True)
    print("failed:", failed)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
