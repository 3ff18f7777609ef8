"""Check and time the kernels that `build_latent.py` compiled. Runs on the GPU machine.

    python -m tests.gpu.run_latent FOLDER [--small]

torch allocates, draws random numbers and is the oracle (f32): every form of the group, with unused memory NaN, twice
with the same bits. Timed: graphs of many launches with programmatic dependent launch, medians. Exit status 1 if a check
failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.gpu import arguments
from tests.gpu.kernel_bench import ROTATED, TORCH, Arrays, Bench, bits, number

PAGE, PEAK = 64, 798e12  # tokens; flop/s of an H100, measured
LITE = ("lite", "lite_fp8", "lite_int8")
FEW = 64  # tokens of the maps of the first form
Row = dict[str, Any]
Sequences = list[tuple[int, int]]  # tokens of a step, and with what is in the cache
DECODES: tuple[Sequences, ...] = ([(1, 1), (1, 64), (1, 700)], [(1, 65)] * 70 + [(0, 0)])
SHORT: tuple[Sequences, ...] = ([(5, 5), (1, 130), (0, 0), (20, 90)], [(100, 100), (1, 1000), (60, 700)])
LONG: tuple[Sequences, ...] = (
    [(300, 300)],
    [(1, 500), (130, 130), (0, 0), (257, 1000), (20, 90), (128, 640), (1, 1)],
    [(2000, 2000)],
    [(129, 129)] * 6 + [(1, 300)] * 9,
)
MIXED: Sequences = [(1, 100), (130, 400), (0, 0), (20, 90)]  # every form can be given it; few pairs, for racecheck
TIMED: tuple[Sequences, ...] = (
    [(256, 256)],
    [(1024, 1024)],
    [(4096, 4096)],
    [(8192, 8192)],
    [(2048, 6144)],
    [(512, 512)] * 8,
    [(1, 1024)] * 32 + [(480, 480)],
)
DECODED: tuple[Sequences, ...] = ([(1, 8192)], [(1, 8192)] * 32, [(1, 1024)] * 32)


def make_arrays(program: Row, sequences: Sequences, padding: int) -> tuple[Arrays, dict[str, int]]:
    """Random operands; what nobody may read is NaN."""
    e, queries = program["sizes"], program["queries"]
    heads, row = e["num_heads"], e["latent"] + e["rotated"]
    pages = [-(-context // PAGE) for _, context in sequences]
    kv = make_cache(program, sum(pages) + 1, row)
    order = torch.randperm(len(kv)).tolist()
    table = torch.zeros(len(sequences), max(pages) + 1, dtype=torch.int32)
    for i, (used, (_, context)) in enumerate(zip(pages, sequences, strict=True)):
        table[i, :used] = torch.tensor([order.pop() for _ in range(used)])
        if context % PAGE:
            spoil(kv[table[i, used - 1]], row, context % PAGE)
    starts = torch.tensor([0, *(count for count, _ in sequences)]).cumsum(0).int()
    tokens = int(starts[-1]) + padding
    shapes = {
        "q": (tokens, queries["stride"]),
        "q_rope": (tokens, heads, e["rotated"]),
        "of_keys": (heads * e["latent"], e["plain"]),
        "of_values": (heads * e["value"], e["latent"]),
    }
    arrays = {name: torch.randn(shape, device="cuda").bfloat16() for name, shape in shapes.items()}
    for name in ("of_keys", "of_values"):
        arrays[name] *= e["latent"] ** -0.5
    lens = torch.tensor([context for _, context in sequences], dtype=torch.int32)
    arrays |= {"kv": kv, "page_table": table.cuda(), "query_start": starts.cuda(), "context_lens": lens.cuda()}
    arrays["out"] = torch.full((tokens, heads, e["value"]), float("nan"), device="cuda", dtype=torch.bfloat16)
    dims = {"T": tokens, "S": len(sequences), "P": table.shape[1]}
    for name, temp in program["temps"].items():
        shape = [number(extent, dims) for extent in temp["shape"]]
        arrays[name] = torch.full(shape, float("nan"), device="cuda", dtype=TORCH[temp["dtype"]])
    return arrays, dims


def make_cache(program: Row, count: int, row: int) -> torch.Tensor:
    """[count, block]; of 8 bits numbers as large as they get, on powers of two that make them about 1."""
    if not program["runs"]:
        return torch.randn(count, PAGE * row, device="cuda", dtype=torch.bfloat16)
    exponents = torch.randint(-8, -5, (count, PAGE * len(program["runs"])), device="cuda")
    numbers = (100 * torch.randn(count, PAGE * row, device="cuda")).clamp(-127, 127)
    powers = exponents if program["kv"] == "i8" else exponents.float().exp2()
    return torch.cat([part.to(TORCH[program["kv"]]).view(torch.int8) for part in (numbers, powers)], 1)


def spoil(page: torch.Tensor, row: int, used: int) -> None:
    """Rows that nobody may read are NaN, or very large."""
    if page.dtype is torch.bfloat16:
        page[used * row :] = float("nan")
    else:
        page[used * row : PAGE * row] = 0x7F
        page[PAGE * row :].view(-1, PAGE)[:, used:] = 0x7F


def rows_of(program: Row, pages: torch.Tensor, row: int) -> torch.Tensor:
    """What pages stand for, f32 [.., row]."""
    if not program["runs"]:
        return pages.float().view(-1, row)
    typed = pages.view(TORCH[program["kv"]]).float()
    marks = typed[:, PAGE * row :].view(len(pages), -1, PAGE)
    scales = (marks.exp2() if program["kv"] == "i8" else marks).transpose(1, 2).reshape(-1, len(program["runs"]))
    sizes = torch.tensor(program["runs"], device="cuda")
    return typed[:, : PAGE * row].reshape(-1, row) * scales.repeat_interleave(sizes, 1)


def reference(program: Row, arrays: Arrays, sequences: Sequences) -> torch.Tensor:
    """The meaning, sequence by sequence, by expanded keys of f32."""
    e, start = program["sizes"], program["queries"]["start"]
    heads, latent = e["num_heads"], e["latent"]
    of_keys = arrays["of_keys"].float().view(heads, latent, e["plain"])
    of_values = arrays["of_values"].float().view(heads, e["value"], latent)
    out = torch.zeros_like(arrays["out"], dtype=torch.float32)
    first = 0
    for i, (count, context) in enumerate(sequences):
        if not count:
            continue
        pages = arrays["kv"][arrays["page_table"][i, : -(-context // PAGE)].long()]
        rows = rows_of(program, pages, latent + e["rotated"])[:context]
        here = slice(first, first + count)
        q = arrays["q"][here, start : start + heads * e["plain"]].float().view(count, heads, e["plain"])
        keys = torch.einsum("jl,hlp->hjp", rows[:, :latent], of_keys)
        scores = torch.einsum("thp,hjp->htj", q, keys)
        scores += torch.einsum("thr,jr->htj", arrays["q_rope"][here].float(), rows[:, latent:])
        seen = torch.arange(context) <= torch.arange(context - count, context)[:, None]
        scores = (scores * (e["plain"] + e["rotated"]) ** -0.5).masked_fill(~seen.cuda(), float("-inf"))
        values = torch.einsum("jl,hvl->hjv", rows[:, :latent], of_values)
        out[here] = torch.einsum("htj,hjv->thv", scores.softmax(-1), values)
        first += count
    return out


def launches_of(bench: Bench, program: Row, arrays: Arrays, dims: dict[str, int]) -> list[Any]:
    """Of a program, in order."""
    return [
        bench.bind(step["kernel"], {own: arrays[name] for own, name in step["names"].items()}, dims)
        for step in program["steps"]
    ]


def check(bench: Bench, program: Row, sequences: Sequences, padding: int) -> list[str]:
    """What is wrong."""
    arrays, dims = make_arrays(program, sequences, padding)
    launches, runs = launches_of(bench, program, arrays, dims), []
    for _ in range(2):
        arrays["out"].fill_(float("nan"))
        torch.cuda.synchronize()
        for launch in filter(None, launches):
            launch(bench.stream.cuda_stream)
        torch.cuda.synchronize()
        runs.append(arrays["out"].clone())
    expected = reference(program, arrays, sequences)
    wrong = ((runs[0].float() - expected).abs() / (0.02 + 0.02 * expected.abs())).nan_to_num(1e9)
    problems = [f"error {float(wrong.max()):.3g} of what is allowed"] if wrong.max() > 1 else []
    return problems + ([] if torch.equal(bits(runs[0]), bits(runs[1])) else ["two runs differ"])


def cases_of(form: str, small: bool) -> list[tuple[Sequences, int]]:
    """Batches with padding tokens that a form may be given."""
    if form.startswith("decode"):
        return [(DECODES[0], 0)] if small else [(batch, batch.count((0, 0))) for batch in DECODES]
    chosen = (MIXED,) if small else LONG if form.startswith("expanded") else (*SHORT, LONG[1], *DECODES)
    return [(batch, padding) for batch in chosen for padding in ((3,) if small else (0, 3))]


def time(bench: Bench, program: Row, sequences: Sequences) -> str:
    """Microseconds of the whole, and of each kernel."""
    sets = [make_arrays(program, sequences, 0)]
    size = sets[0][0]["kv"].nbytes
    sets += [make_arrays(program, sequences, 0) for _ in range(min(32, ROTATED // size))]
    each = [list(filter(None, launches_of(bench, program, *one))) for one in sets]
    for launch in each[0]:
        launch(bench.stream.cuda_stream)
    repeats = max(1, 10 // len(each))
    whole = bench.time([launch for launches in each for launch in launches] * repeats) * len(each[0])
    parts = [f"{bench.time(list(of_one) * repeats):.1f}" for of_one in zip(*each, strict=True)]
    e = program["sizes"]
    pairs = sum(count * context - count * (count - 1) // 2 for count, context in sequences)
    flops = 2 * e["num_heads"] * (e["plain"] + e["rotated"] + e["value"]) * pairs
    return f"{whole:8.1f} us = {' + '.join(parts)}; of scores {1e6 * flops / PEAK:.1f}"


def report(bench: Bench, program: Row, sequences: Sequences) -> None:
    """Print a timing."""
    name = f"{program['problem']} {program['form']}"
    print(f"{sequences[0]} x {len(sequences)} {name:24} {time(bench, program, sequences)}", flush=True)


def main() -> int:
    """Check, then time."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="one case of every form, nothing timed")
    given = parser.parse_args()
    bench = Bench(given.folder, given.small)
    torch.manual_seed(0)
    failed = 0
    for program in bench.cases:
        for sequences, padding in cases_of(program["form"], given.small):
            problems = check(bench, program, sequences, padding)
            failed += bool(problems)
            if problems:
                print("FAILED", program["problem"], program["form"], sequences, padding, problems, flush=True)
    forms = ("expanded", "ragged_many")
    for sequences in () if given.small else TIMED:
        for program in bench.cases:
            if program["problem"] in LITE and program["form"].startswith(forms):
                report(bench, program, sequences)
    for sequences in () if given.small else DECODED:
        for program in bench.cases:
            few = program["form"] == ("decode" if len(sequences) <= FEW else "decode_many")
            if program["problem"] in LITE and few:
                report(bench, program, sequences)
    print("failed:", failed)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
