"""Parts of the GPU runtime by themselves, on a fake driver: limits, shapes of steps, staging, launches, noise."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.cuda_fake import FakeCuda, Stream, array_at
from warploom.errors import DeviceError, EngineError
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.graphs import capture
from warploom.runtime.cuda.launch import CudaEntry
from warploom.runtime.cuda.limits import CHEAP_TOKENS, CacheBudget, num_cache_pages, step_limits
from warploom.runtime.cuda.memory import DeviceMemory
from warploom.runtime.cuda.modules import Modules
from warploom.runtime.cuda.places import Place
from warploom.runtime.cuda.replacements import chosen_launches
from warploom.runtime.cuda.results import DEPTH, DeviceArray, Pending, ResultRing
from warploom.runtime.cuda.staging import InputBlock
from warploom.runtime.cuda.step_shape import Buckets, shape_step
from warploom.runtime.cuda.weights import fill_with_noise
from warploom.runtime.manifest import KVInfo, RandomParam
from warploom.runtime.noise import BLOCK, noise_start, random_param
from warploom.runtime.plan import (
    Buffer,
    CudaInfo,
    DimParam,
    DimRange,
    Entry,
    Guard,
    KernelInfo,
    Launch,
    Replacement,
    TensorMapParam,
)
from warploom.runtime.step_batch import StepBatch


@pytest.fixture
def api() -> FakeCuda:
    """A driver whose streams do nothing before they have to."""
    return FakeCuda({"kernel": (lambda grid, *arguments: None, ["tensormap", "i32", "i64"])})


def entry_with(**dims: DimRange) -> Entry:
    return Entry(dims, [], [], [], 0)


def cache_pages(api: FakeCuda, compiled: DimRange, num_pages: int) -> int:
    driver, kv = Driver(0, api), KVInfo(1, 1, 1, 64, "bf16", 256)
    budget = CacheBudget(num_pages * kv.bytes_per_page, 0.9)
    return num_cache_pages(driver, DeviceMemory(driver), kv, compiled, 1 << 20, budget)


def test_a_cache_has_a_multiple_of_the_pages_that_the_code_takes(api: FakeCuda) -> None:
    assert cache_pages(api, DimRange(8, 1 << 20, 8), 31) == 24
    with pytest.raises(DeviceError, match="the KV cache"):
        cache_pages(api, DimRange(8, 1 << 20, 8), 7)


@pytest.mark.parametrize(
    ("seqs", "drafts", "rows"),
    [
        (4, 0, 4),
        (4, 3, 16),
        (32, 7, CHEAP_TOKENS),  # more rows of drafts would no longer be nearly free
        (100, 7, 100),  # but every sequence has one
        (8, 100, 40),  # logits were compiled for so many
    ],
)
def test_rows_are_those_of_sequences_and_of_drafts_while_these_are_cheap(seqs: int, drafts: int, rows: int) -> None:
    step = entry_with(T=DimRange(1, 512), S=DimRange(1, 256), R=DimRange(0, 40 if seqs == 8 else 256), P=DimRange(1, 9))
    limits = step_limits(5, {"step": step, "sample": entry_with(R=DimRange(1, 256))}, 128, seqs, drafts)
    assert (limits["R"], limits["S"]) == (rows, rows)
    assert (limits["T"], limits["P"], limits["C"]) == (128, 5, seqs * 5)


def batch(runs: list[int]) -> StepBatch:
    """A step of some tokens of each sequence, all of whose rows are sampled."""
    num_tokens, starts = sum(runs), np.cumsum([0, *runs], dtype=np.int32)
    fields: dict[str, Any] = {
        "token_ids": np.zeros(num_tokens, np.int32),
        "query_start": starts,
        "logit_rows": np.arange(num_tokens, dtype=np.int32),
        "page_table": np.zeros((len(runs), 1), np.int32),
        "sampling": None,
        "top_logprobs": False,
    }
    return SimpleNamespace(**fields)  # type: ignore[return-value]


@pytest.mark.parametrize(("runs", "bucket"), [([16, 2], (32, 1)), ([17, 1], None), ([1, 1], (8, 1))])
def test_drafts_run_in_graphs_while_sequences_bring_few_of_them(
    runs: list[int], bucket: tuple[int, int] | None
) -> None:
    assert shape_step(batch(runs), Buckets((8, 32), (1, 4)), 1, 10).bucket == bucket


def test_a_step_has_the_logit_rows_that_kernels_need() -> None:
    assert shape_step(batch([1]), None, 4, 10).dims["R"] == 4
    assert shape_step(batch([3, 3]), None, 4, 10).dims["R"] == 6


DIMS = {"T": 4, "S": 4}


class Staged:
    """An input block on a stream, and what the GPU has of its inputs once it has done all before."""

    def __init__(self, api: FakeCuda, inputs: dict[str, tuple[str, list[str]]], limits: dict[str, int]) -> None:
        driver = Driver(0, api)
        self.stream: Stream = driver.call("cuStreamCreate", 0)
        buffers = [Buffer(name, "input", dtype, shape) for name, (dtype, shape) in inputs.items()]  # type: ignore[arg-type]
        self.block = InputBlock(driver, DeviceMemory(driver), self.stream, buffers, limits)
        self.dtypes = {name: {"i32": np.int32, "f32": np.float32}[dtype] for name, (dtype, _) in inputs.items()}
        self.seen: list[dict[str, np.ndarray]] = []

    def step(self, dims: dict[str, int], **arrays: np.ndarray) -> None:
        self.block.upload(dims, arrays)
        layout = self.block.layout(dims)

        def read() -> None:
            places = self.block.addresses(layout)
            self.seen.append({n: array_at(places[n], d, layout.shapes[n]).copy() for n, d in self.dtypes.items()})

        self.stream.queue.append(read)


def test_padding_is_what_kernels_take_for_nothing(api: FakeCuda) -> None:
    """Rows past the batch write nowhere, have one token of context, and are sampled from plain logits."""
    padding = {"slots": -1, "token_sources": -1, "context_lens": 1, "penalty_tokens": -1, "bias_tokens": -1, "top_k": 0}
    padding |= {"top_p": 1, "repetition_penalty": 1, "temperature": 0, "min_p": 0}
    kinds = {name: ("f32" if "_p" in name or "penalty" in name.split("_")[1:] else "i32") for name in padding}
    staged = Staged(api, {name: (kinds[name], ["T"]) for name in padding}, DIMS)
    staged.step(DIMS, **{name: np.full(3, 7, staged.dtypes[name]) for name in padding})
    staged.step(DIMS)
    staged.stream.run()
    for name, value in padding.items():
        assert staged.seen[0][name].tolist() == [7, 7, 7, value]
        assert staged.seen[1][name].tolist() == [value] * 4


def test_pinned_memory_is_packed_again_only_when_it_has_been_copied(api: FakeCuda) -> None:
    staged = Staged(api, {"slots": ("i32", ["T"])}, DIMS)
    for step in range(7):
        staged.step(DIMS, slots=np.full(4, step, np.int32))
    staged.stream.run()
    assert [seen["slots"][0] for seen in staged.seen] == list(range(7))


def test_pinned_memory_grows_for_a_larger_step(api: FakeCuda) -> None:
    limits = {"T": 1 << 19, "S": 1}
    staged = Staged(api, {"slots": ("i32", ["T"])}, limits)
    sizes = [4] * 3 + [1 << 19] * 3 + [4] * 3
    for step, size in enumerate(sizes):
        staged.step({"T": size, "S": 1}, slots=np.full(size, step, np.int32))
    staged.stream.run()
    assert [(seen["slots"].min(), seen["slots"].max()) for seen in staged.seen] == [(i, i) for i in range(len(sizes))]


def entry_of(launches: list[Launch], **dims: DimRange) -> Entry:
    return Entry(dims, [], [Buffer("w", "param", "bf16", [64, 64])], launches, 0)


def bound(api: FakeCuda, entry: Entry, limits: dict[str, int]) -> CudaEntry:
    params = [TensorMapParam("bf16", ["N", 64], [16, 64], 0)]
    info = KernelInfo("k", "s", "p", ["N"], 0, 0, CudaInfo("c", "p", "t", 4, 0, 32, 0, False, [*params, DimParam()]))
    driver = Driver(0, api)
    stream = driver.call("cuStreamCreate", 0)
    places = {"w": Place(1 << 20)}
    return CudaEntry(
        driver, stream, entry, {"kernel": info}, {"kernel": "kernel"}, places, limits, DeviceMemory(driver)
    )


def test_a_matrix_seen_in_two_shapes_has_two_tensor_maps(api: FakeCuda) -> None:
    launches = [Launch("kernel", ["w"], [rows], 1, "model", [1, 1, 1]) for rows in (64, 32, 64)]
    bound(api, entry_of(launches, T=DimRange(1, 8)), {"T": 8})
    assert len(api.maps) == 2


def test_a_dim_that_is_no_multiple_of_what_was_compiled_is_refused(api: FakeCuda) -> None:
    launch = Launch("kernel", ["w"], [64], 1, "model", ["T", 1, 1])
    entry = bound(api, entry_of([launch], T=DimRange(8, 64, 8)), {"T": 64})
    entry.resolve({"T": 16})
    with pytest.raises(EngineError, match="a multiple of 8"):
        entry.resolve({"T": 20})


def test_a_kernel_in_place_of_others_runs_where_the_last_of_them_did() -> None:
    launches = [Launch(name, [], [], 1, "model", [1, 1, 1]) for name in "abcd"]
    one = Launch("one", [], [], 1, "model", [1, 1, 1], Guard("T", 1, 1))
    entry = Entry({"T": DimRange(1, 8)}, [], [], launches, 0, replacements=[Replacement(one, [0, 2], 4)])
    assert [chosen.launch.kernel for chosen in chosen_launches(entry, 132)] == ["a", "b", "c", "one", "d"]


def test_noise_goes_round_the_block(api: FakeCuda) -> None:
    """What a GPU repeats by copies is what numpy makes."""
    driver = Driver(0, api)
    memory = DeviceMemory(driver)
    seed = next(seed for seed in range(99) if noise_start(seed) > BLOCK * 7 // 8)
    param = RandomParam([BLOCK - noise_start(seed) + 1000], "i8", 0.0, 100.0, seed)
    address = memory.take("weight", math.prod(param.shape))
    fill_with_noise(driver, memory, {address: param})
    np.testing.assert_array_equal(array_at(address, np.int8, param.shape), random_param(param))
    assert memory.taken.keys() == {"weight"}, "the block is given back"


def test_a_capture_that_fails_gives_the_stream_back(api: FakeCuda) -> None:
    driver = Driver(0, api)
    stream = driver.call("cuStreamCreate", 0)

    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        capture(driver, stream, fail)
    assert stream.captured is None


def test_kernels_that_share_much_memory_ask_for_it(api: FakeCuda, tmp_path: Any) -> None:
    asked: list[int] = []

    def set_attribute(function: str, attribute: str, value: int) -> tuple[int]:
        asked.append(value)
        return (0,)

    api.cuFuncSetAttribute = set_attribute  # type: ignore[method-assign]
    (tmp_path / "c").write_bytes(b"code")
    for shared in (48 << 10, (48 << 10) + 1):
        info = KernelInfo("k", "s", "p", [], 0, 0, CudaInfo("c", "p", "t", 4, shared, 32, 0, False, []))
        Modules(Driver(0, api), tmp_path, {"kernel": info}, ["kernel"], "cubin")
    assert asked == [(48 << 10) + 1]


class Results:
    """A result on the GPU that every step overwrites, and the ring that brings it to the host."""

    def __init__(self, api: FakeCuda) -> None:
        driver = Driver(0, api)
        self.stream: Stream = driver.call("cuStreamCreate", 0)
        address = DeviceMemory(driver).take("results", 64)
        self.on_device = array_at(address, np.int32, (4,))
        array = DeviceArray("tokens", address, np.dtype(np.int32), 4, ())
        self.ring = ResultRing(driver, self.stream, {"sample": [array]})

    def step(self, value: int) -> Pending:
        self.ring.begin_step()
        self.stream.queue.append(lambda: self.on_device.fill(value))
        return self.ring.collect(("sample",), 4)


def test_a_step_overwrites_results_only_when_they_have_been_copied(api: FakeCuda) -> None:
    results = Results(api)
    first, second = results.step(1), results.step(2)
    results.stream.run()  # as far as it gets by itself
    assert results.ring.read(first)["tokens"].tolist() == [1] * 4
    assert results.ring.read(second)["tokens"].tolist() == [2] * 4


def test_results_that_were_read_stay_when_later_steps_take_their_place(api: FakeCuda) -> None:
    results = Results(api)
    read = [results.ring.read(results.step(value))["tokens"] for value in range(2 * DEPTH)]
    assert [array.tolist() for array in read] == [[value] * 4 for value in range(2 * DEPTH)]
