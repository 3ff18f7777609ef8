"""A model for the fake GPU: an artifact with a CUDA plan, and its kernels in Python.

Row r of the logits is the history that the row attends to, read from the KV cache through the page table: its length,
then its tokens. `@sample` makes of it what `runtime_fakes.next_token` does, so the tokens of a request are those of
`answer_alone`, and any wrong pointer, dim or offset shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tests.cuda_fake import FakeCuda, Kernel, array_at
from tests.runtime_fakes import VOCAB_SIZE, next_token
from warploom.runtime.artifact import Artifact, ArtifactWriter, load
from warploom.runtime.expr import Expr
from warploom.runtime.manifest import (
    CudaTargetInfo,
    KVInfo,
    Manifest,
    ModelInfo,
    RandomParam,
    TargetInfo,
    TokenizerInfo,
)
from warploom.runtime.plan import (
    Buffer,
    CudaInfo,
    DimParam,
    DimRange,
    Entry,
    Guard,
    KernelInfo,
    Launch,
    Plan,
    PointerParam,
    TensorMapParam,
)

PAGE, LAYERS, MAX_CONTEXT, MAX_TOKENS, MAX_SEQS, TOP = 4, 3, VOCAB_SIZE - 2, 24, 8, 3
SALT = np.arange(1000, 1040, dtype=np.int32)
NOISE = RandomParam([100, 64], "bf16", 0.0, 0.25, 7)
Dims = Mapping[str, int]
F32, I32 = np.float32, np.int32


def _write(grid: Any, token_ids: int, slots: int, cache: int, salt: int, tensor_map: bytes, *rest: int) -> None:
    """A token's id goes to its slot, in the last layer."""
    *shape_and_strides, num_tokens = rest
    assert shape_and_strides == [40, 1], "shape and stride of the tensor map"
    assert tensor_map[0] >= 1
    np.testing.assert_array_equal(array_at(salt, I32, [40]), SALT)
    assert grid == (num_tokens, 2, 1)
    cache_array = array_at(cache, F32, [2**14])
    for token, slot in zip(array_at(token_ids, I32, [num_tokens]), array_at(slots, I32, [num_tokens]), strict=True):
        if slot >= 0:
            page, offset = divmod(int(slot), PAGE)
            cache_array[page * 2 * PAGE + offset] = token


def _read(grid: Any, *arguments: int) -> None:
    """Histories of the logit rows, as sequences."""
    cache, table, starts, lens, positions, rows, history, counter, num_seqs, num_rows, num_pages = arguments
    assert array_at(counter, I32, [4]).tolist() == [0, 0, 0, 0], "counters are zero before and after every launch"
    pages = array_at(table, I32, [num_seqs, num_pages])
    start, length = array_at(starts, I32, [num_seqs + 1]), array_at(lens, I32, [num_seqs])
    out = array_at(history, F32, [num_rows, VOCAB_SIZE])
    for row, place in enumerate(array_at(rows, I32, [num_rows]).tolist()):
        sequence = int(np.searchsorted(start, place, side="right")) - 1
        last = int(length[sequence] - (start[sequence + 1] - place))
        assert last == array_at(positions, I32, [place + 1])[place]
        tokens = [
            array_at(cache, F32, [2**14])[int(pages[sequence, j // PAGE]) * 2 * PAGE + j % PAGE]
            for j in range(last + 1)
        ]
        out[row] = 0
        out[row, : last + 2] = [last + 1, *tokens]


def _copy(grid: Any, source: int, target: int, num_rows: int) -> None:
    array_at(target, F32, [num_rows, VOCAB_SIZE])[...] = array_at(source, F32, [num_rows, VOCAB_SIZE])


def _sample(grid: Any, *arguments: int) -> None:
    logits, seeds, positions, bias_tokens, bias_values, tokens, logprobs, num_rows, biases = arguments
    for row, history in enumerate(array_at(logits, F32, [num_rows, VOCAB_SIZE]).tolist()):
        length = int(history[0])
        values = array_at(bias_values, F32, [num_rows, biases])[row]
        banned = frozenset(array_at(bias_tokens, I32, [num_rows, biases])[row][np.isneginf(values)].tolist())
        seed = int(array_at(seeds, I32, [num_rows, 2])[row].copy().view("<u8")[0])
        token = next_token([int(value) for value in history[1 : 1 + length]], seed, banned)
        array_at(tokens, I32, [num_rows])[row] = token
        array_at(logprobs, F32, [num_rows])[row] = -length
        position = int(array_at(positions, I32, [num_rows])[row])
        assert position in (0, length), "0 in rows of padding"


def _top(grid: Any, logits: int, tokens: int, values: int, num_rows: int) -> None:
    array_at(tokens, I32, [num_rows, TOP])[...] = np.arange(TOP)
    array_at(values, F32, [num_rows, TOP])[...] = array_at(logits, F32, [num_rows, VOCAB_SIZE])[:, :1]


def _feed(grid: Any, token_ids: int, sources: int, tokens: int, num_tokens: int) -> None:
    for place, source in enumerate(array_at(sources, I32, [num_tokens]).tolist()):
        if source >= 0:
            array_at(token_ids, I32, [num_tokens])[place] = array_at(tokens, I32, [source + 1])[source]


_POINTER, _DIM = PointerParam(), DimParam()
_MAP = TensorMapParam("i32", [40], [8], 0)
KERNELS: dict[str, tuple[Kernel, list[Any]]] = {
    "write": (_write, [*[_POINTER] * 4, _MAP, _DIM]),
    "read_few": (_read, [*[_POINTER] * 8, *[_DIM] * 3]),
    "read_many": (_read, [*[_POINTER] * 8, *[_DIM] * 3]),
    "copy": (_copy, [_POINTER, _POINTER, _DIM]),
    "sample": (_sample, [*[_POINTER] * 7, _DIM, _DIM]),
    "top": (_top, [*[_POINTER] * 3, _DIM]),
    "feed_tokens": (_feed, [*[_POINTER] * 3, _DIM]),
}
FEW = 3  # logit rows up to which `read_few` is used


def fake_cuda(**options: Any) -> FakeCuda:
    """A fake GPU that knows the model's kernels."""
    kinds = {PointerParam: ["pointer"], DimParam: ["i32"], TensorMapParam: ["tensormap", "i32", "i64"]}
    kernels = {
        name: (kernel, [kind for param in params for kind in kinds[type(param)]])
        for name, (kernel, params) in KERNELS.items()
    }
    return FakeCuda(kernels, **options)


def cuda_artifact(
    path: Path,
    *,
    archs: tuple[str, ...] = ("sm_90",),
    portable: bool = False,
    random: RandomParam | None = None,
    cubins: Mapping[str, bytes] | None = None,
) -> Artifact:
    """The model as an artifact.

    Args:
        random: how its noise is made at load; None: it is stored.
        cubins: real kernels; None: text that stands for them.
    """
    manifest = Manifest(
        warploom_version="",
        model=ModelInfo("test/fake", "LlamaForCausalLM", 0),
        config={},
        vocab_size=VOCAB_SIZE,
        max_context=MAX_CONTEXT,
        tokenizer=TokenizerInfo("tokenizer.json"),
        quantization="bf16",
        targets={
            f"cuda:{arch}": TargetInfo(
                f"plan.cuda.{arch}.json",
                KVInfo(LAYERS, 1, 1, PAGE, "f32", LAYERS * 2 * PAGE * 4),
                cuda=CudaTargetInfo(arch, portable, 12000, 12080),
            )
            for arch in archs
        },
        random_params={"noise": random} if random else {},
    )
    with ArtifactWriter(path) as writer:
        writer.add_text("tokenizer.json", "{}")
        writer.add_param("salt", SALT)
        if not random:
            writer.add_param("noise", np.ones(NOISE.shape, np.uint16), "bf16")
        for arch in archs:
            writer.add_bytes(f"plan.cuda.{arch}.json", msgspec.json.encode(_plan(arch, random or NOISE)))
            for name in KERNELS:
                for form in ("cubin", "ptx", "ttir", "py"):
                    data = cubins[name] if cubins and form == "cubin" else f"{form} of {name}".encode()
                    writer.add_bytes(f"kernels/cuda/{arch}/{name}.{form}", data)
        writer.finish(manifest)
    return load(path)


def _plan(arch: str, noise: RandomParam) -> Plan:
    return Plan(
        {"step": _step(noise), "sample": _sample_entry(), "logprobs": _logprobs(), "feed": _feed_entry()},
        {name: _kernel(arch, name, params) for name, (_, params) in KERNELS.items()},
    )


def _kernel(arch: str, name: str, params: list[Any]) -> KernelInfo:
    path = f"kernels/cuda/{arch}/{name}"
    dims = [f"d{i}" for i in range(sum(isinstance(param, DimParam) for param in params))]
    shared = (100 << 10) if name == "copy" else 1024
    cuda = CudaInfo(f"{path}.cubin", f"{path}.ptx", f"{path}.ttir", 4, shared, 32, 0, name == "copy", params)
    return KernelInfo(name, name, f"{path}.py", dims, "0", "1024", cuda)


def _launch(kernel: str, operands: str, dims: list[Expr], grid: list[Expr], when: Guard | None = None) -> Launch:
    tiles = " * ".join(f"({extent})" for extent in grid)
    return Launch(kernel, [name.strip() for name in operands.split(",")], dims, tiles, "model", grid, when)


def _inputs(**shapes: list[Expr]) -> list[Buffer]:
    f32 = ("temperature", "top_p", "min_p", "bias_values", "logits", *_PENALTIES)
    return [Buffer(name, "input", "f32" if name in f32 else "i32", shape) for name, shape in shapes.items()]


_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


_SAMPLED_FROM = "logits, seeds, sample_positions, bias_tokens, bias_values"


def _step(noise: RandomParam) -> Entry:
    page = 2 * PAGE
    inputs = _inputs(
        token_ids=["T"], positions=["T"], slots=["T"], page_table=["S", "P"], query_start=["S + 1"],
        context_lens=["S"], logit_rows=["R"],
    )  # fmt: skip
    last = f"{(LAYERS - 1) * page * 4} * C"
    read = "kv + last, page_table, query_start, context_lens, positions, logit_rows, history, counter"
    return Entry(
        dims={
            "T": DimRange(1, MAX_TOKENS),
            "S": DimRange(1, MAX_SEQS),
            "R": DimRange(0, MAX_TOKENS),
            "P": DimRange(1, -(-MAX_CONTEXT // PAGE)),
            "C": DimRange(1, 1 << 24),
        },
        externals=[*(buffer.name for buffer in inputs), "kv", "salt", "noise"],
        buffers=[
            *inputs,
            Buffer("kv", "input", "f32", [LAYERS, "C", 2, 1, PAGE]),
            Buffer("salt", "param", "i32", [40]),
            Buffer("noise", "param", noise.dtype, list(noise.shape)),
            Buffer("history", "temp", "f32", ["R", VOCAB_SIZE], "64"),
            Buffer("counter", "zeroed", "i32", [4], 64),
            Buffer("logits", "result", "f32", ["R", VOCAB_SIZE], f"64 + R * {VOCAB_SIZE * 4}"),
            Buffer("kv", "result", "f32", [LAYERS, "C", 2, 1, PAGE], aliases="kv"),
            Buffer("kv + last", "view", "u8", [f"C * {page * 4}"], last, "kv"),
        ],
        launches=[
            _launch("write", "token_ids, slots, kv + last, salt, salt", ["T"], ["T", 2, 1]),
            _launch("read_few", read, ["S", "R", "P"], ["R", 1, 1], Guard("R", 0, FEW)),
            _launch("read_many", read, ["S", "R", "P"], ["R", 1, 1], Guard("R", FEW + 1, 1 << 30)),
            _launch("copy", "history, logits", ["R"], ["(R + 1) // 2", 1, 1]),
        ],
        arena_bytes=f"64 + 2 * R * {VOCAB_SIZE * 4}",
        zeroed_bytes=80,
    )


def _sample_entry() -> Entry:
    inputs = _inputs(
        logits=["R", VOCAB_SIZE], temperature=["R"], top_k=["R"], top_p=["R"], min_p=["R"], repetition_penalty=["R"],
        presence_penalty=["R"], frequency_penalty=["R"], seeds=["R", 2], sample_positions=["R"],
        penalty_tokens=["R", "H"], penalty_counts=["R", "H"], bias_tokens=["R", "B"], bias_values=["R", "B"],
    )  # fmt: skip
    return Entry(
        dims={"R": DimRange(1, MAX_TOKENS), "H": DimRange(1, MAX_CONTEXT), "B": DimRange(1, 16)},
        externals=[buffer.name for buffer in inputs],
        buffers=[
            *inputs,
            Buffer("tokens", "result", "i32", ["R"], 0),
            Buffer("logprobs", "result", "f32", ["R"], "(R * 4 + 63) // 64 * 64"),
        ],
        launches=[
            _launch("sample", f"{_SAMPLED_FROM}, tokens, logprobs", ["R", "B"], ["R", 1, 1]),
        ],
        arena_bytes="(R * 4 + 63) // 64 * 128",
    )


def _logprobs() -> Entry:
    return Entry(
        dims={"R": DimRange(1, MAX_TOKENS)},
        externals=["logits"],
        buffers=[
            *_inputs(logits=["R", VOCAB_SIZE]),
            Buffer("top_tokens", "result", "i32", ["R", TOP], 0),
            Buffer("top_logprobs", "result", "f32", ["R", TOP], f"R * {TOP * 64}"),
        ],
        launches=[_launch("top", "logits, top_tokens, top_logprobs", ["R"], ["R", 1, 1])],
        arena_bytes=f"R * {TOP * 128}",
    )


def _feed_entry() -> Entry:
    return Entry(
        dims={"T": DimRange(1, MAX_TOKENS)},
        externals=["token_ids", "token_sources", "tokens"],
        buffers=[
            *_inputs(token_ids=["T"], token_sources=["T"], tokens=[MAX_TOKENS]),
            Buffer("token_ids", "result", "i32", ["T"], aliases="token_ids"),
        ],
        launches=[_launch("feed_tokens", "token_ids, token_sources, tokens", ["T"], ["(T + 255) // 256", 1, 1])],
        arena_bytes=0,
    )
