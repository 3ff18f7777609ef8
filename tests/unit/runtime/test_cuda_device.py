"""The CUDA device over a fake driver: same tokens as the model alone, whatever is padded, captured or overlapped."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cuda_fake import FakeCuda, array_at
from tests.cuda_fake_model import LAYERS, MAX_CONTEXT, MAX_SEQS, MAX_TOKENS, NOISE, PAGE, cuda_artifact, fake_cuda
from tests.runtime_fakes import EOS, VOCAB_SIZE, FakeDevice, Oracle, answer_alone, one_step
from warploom.errors import ArtifactError, DeviceError, EngineError
from warploom.runtime.artifact import Artifact
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.engine import Engine
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.noise import random_param
from warploom.runtime.request import Request
from warploom.runtime.sampler_inputs import SamplerTable
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig
from warploom.runtime.step_batch import StepBatch

NUM_PAGES = 40
KV_BYTES = NUM_PAGES * LAYERS * 2 * PAGE * 4


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return cuda_artifact(tmp_path_factory.mktemp("cuda") / "model")


@pytest.fixture(params=[True, False], ids=["late", "at once"])
def cuda(request: pytest.FixtureRequest) -> FakeCuda:
    """A GPU that works as late as it may, and one that works at once."""
    return fake_cuda(lazy=request.param)


@pytest.fixture
def device(artifact: Artifact, cuda: FakeCuda) -> Iterator[CudaDevice]:
    opened = CudaDevice(artifact, kv_bytes=KV_BYTES, api=cuda)
    yield opened
    opened.close()


def engine(device: Any) -> Engine:
    return Engine(device, vocab_size=VOCAB_SIZE, max_context=MAX_CONTEXT, eos_token_ids=[EOS])


def answers(engine: Engine, requests: list[tuple[list[int], SamplingParams]]) -> list[list[int]]:
    ids = [engine.add_request(prompt, params) for prompt, params in requests]
    tokens: dict[int, list[int]] = {request_id: [] for request_id in ids}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
            assert output.finish_reason != "abort", output.stop_reason
        engine.check()
    return [tokens[request_id] for request_id in ids]


def mixed_requests(seed: int) -> list[tuple[list[int], SamplingParams]]:
    """Prompts of all lengths; some with penalties, biases, reports."""
    rng = np.random.default_rng(seed)
    requests: list[tuple[list[int], SamplingParams]] = []
    for i in range(14):
        prompt = rng.integers(3, VOCAB_SIZE, int(rng.integers(1, 30))).tolist()
        room = MAX_CONTEXT - len(prompt)
        choices: list[dict[str, Any]] = [{}, {"repetition_penalty": 1.5}, {"min_tokens": 3}, {"logprobs": 2}]
        params = SamplingParams(seed=i, max_tokens=int(rng.integers(1, min(room, 20))), **choices[i % 4])
        requests.append((prompt, params))
    return requests


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_engine_gives_the_tokens_of_each_request_alone(
    artifact: Artifact, cuda: FakeCuda, graphs: bool, seed: int
) -> None:
    device = CudaDevice(artifact, kv_bytes=KV_BYTES, graphs=graphs, api=cuda)
    requests = mixed_requests(seed)
    expected = [answer_alone(prompt, params, MAX_CONTEXT)[0] for prompt, params in requests]
    assert answers(engine(device), requests) == expected
    assert (cuda.graph_launches > 0) == graphs
    assert {launched.kernel for launched in cuda.launched} >= {
        "write",
        "read_few",
        "read_many",
        "copy",
        "sample",
        "top",
    }
    device.close()


def test_drafts_are_verified_in_the_graphs_of_decodes(artifact: Artifact, cuda: FakeCuda) -> None:
    device = CudaDevice(artifact, kv_bytes=KV_BYTES, max_seqs=2, num_drafts=3, api=cuda)
    assert (device.max_seqs, device.max_rows) == (2, 8)
    config = SpeculativeConfig(num_speculative_tokens=3)
    speculating = Engine(
        device, vocab_size=VOCAB_SIZE, max_context=MAX_CONTEXT, eos_token_ids=[EOS], speculation=config
    )
    assert speculating._speculator is not None
    speculating._speculator._proposer = Oracle(0x0840)
    alone = SamplingParams(seed=3, max_tokens=20, ignore_eos=True)
    assert answers(speculating, [([5], alone)]) == [answer_alone([5], alone, MAX_CONTEXT)[0]]
    assert cuda.graph_launches == speculating.stats().steps < 12
    requests = mixed_requests(5)
    expected = [answer_alone(prompt, params, MAX_CONTEXT)[0] for prompt, params in requests]
    assert answers(speculating, requests) == expected
    stats = speculating.stats()
    assert stats.accepted_tokens > stats.drafts
    device.close()


def decode_batches(count: int) -> tuple[list[StepBatch], list[Request], SamplerTable, KVCache]:
    """The prompt step of `count` requests, as a batch; what it takes to make the next ones."""
    cache = KVCache(NUM_PAGES, PAGE, MAX_SEQS, -(-MAX_CONTEXT // PAGE))
    sampler = SamplerTable(MAX_SEQS, VOCAB_SIZE)
    requests = []
    for i in range(count):
        prompt = list(range(3 + i, 3 + i + 2 + i % 2))
        request = Request(i, prompt, SamplingParams(seed=i, max_tokens=20), 20, frozenset(), seed=i)
        request.row = cache.open(20)
        sampler.admit(request)
        requests.append(request)
    pieces = [(request, len(request.token_ids)) for request in requests]
    return [one_step(pieces, cache, sampler)], requests, sampler, cache


def advance(requests: list[Request], tokens: list[int]) -> None:
    for request, token in zip(requests, tokens, strict=True):
        request.token_ids.append(token)


@pytest.mark.parametrize("count", range(1, MAX_SEQS + 1))
def test_steps_launched_ahead_read_their_tokens_on_the_gpu(device: CudaDevice, count: int) -> None:
    (first,), requests, sampler, cache = decode_batches(count)
    twin = FakeDevice(num_pages=NUM_PAGES, page_size=PAGE, max_tokens=MAX_TOKENS, max_seqs=MAX_SEQS)
    expected = [twin.execute(first)]
    tickets = [device.launch(first)]
    for step in range(12):
        advance(requests, expected[-1].tokens.tolist())
        order = requests[::-1] if step % 3 else requests  # rows change places
        batch = one_step([(request, 1) for request in order], cache, sampler)
        sources = np.array([expected_row(requests, request) for request in order], np.int32)
        expected.append(twin.execute(batch))
        hidden = batch._replace(token_ids=np.full_like(batch.token_ids, 9999))
        tickets.append(device.launch(hidden, sources))
        requests = order
        outputs = device.result(tickets[step])
        np.testing.assert_array_equal(outputs.tokens, expected[step].tokens)
        np.testing.assert_array_equal(outputs.logprobs, expected[step].logprobs)


def expected_row(requests: list[Request], request: Request) -> int:
    return requests.index(request)


def test_more_unread_steps_than_there_is_room_for_are_refused(device: CudaDevice) -> None:
    (first,), *_ = decode_batches(1)
    for _ in range(3):
        device.launch(first)
    with pytest.raises(EngineError, match="in flight"):
        device.launch(first)


def test_padding_rows_write_nothing(device: CudaDevice, cuda: FakeCuda) -> None:
    (first,), requests, sampler, cache = decode_batches(3)
    tokens = device.execute(first).tokens.tolist()
    address = next(a for a, block in cuda.allocated.items() if block.nbytes - 256 == KV_BYTES)
    before = array_at(address, np.float32, [KV_BYTES // 4]).copy()
    advance(requests, tokens)
    device.execute(one_step([(request, 1) for request in requests], cache, sampler))
    changed = np.flatnonzero(before != array_at(address, np.float32, [KV_BYTES // 4]))
    assert len(changed) == 3


def test_graphs_are_captured_at_load_largest_first_and_others_when_needed(device: CudaDevice, cuda: FakeCuda) -> None:
    assert cuda.captures == 4
    rows = [one.grid[0] for one in cuda.launched if one.kernel == "write"]
    assert rows == [8, 4, 2, 1]
    assert all(one.captured for one in cuda.launched)
    (first,), requests, sampler, cache = decode_batches(3)
    advance(requests, device.execute(first).tokens.tolist())
    batch = one_step([(request, 1) for request in requests], cache, sampler)
    count = len(cuda.launched)
    device.execute(batch)
    assert (cuda.captures, len(cuda.launched), cuda.graph_launches) == (4, count, 1)
    device.execute(batch._replace(top_logprobs=True))
    assert (cuda.captures, cuda.graph_launches) == (5, 2)
    assert [one.kernel for one in cuda.launched[count:] if not one.captured] == ["sample", "top"]


def test_launches_have_the_kernels_threads_shared_memory_and_pdl(device: CudaDevice, cuda: FakeCuda) -> None:
    device.execute(decode_batches(5)[0][0])
    one = next(one for one in cuda.launched if one.kernel == "copy" and not one.captured)
    assert (one.grid, one.threads, one.shared_bytes, one.pdl) == ((3, 1, 1), 128, 100 << 10, True)
    one = next(one for one in cuda.launched if one.kernel == "write")
    assert (one.threads, one.shared_bytes, one.pdl) == (128, 1024, False)


def test_one_guarded_kernel_runs(device: CudaDevice, cuda: FakeCuda) -> None:
    for count, kernel in ((2, "read_few"), (5, "read_many")):
        cuda.launched.clear()
        device.execute(decode_batches(count)[0][0])
        assert [one.kernel for one in cuda.launched] == ["write", kernel, "copy", "sample"]


def test_logits_are_those_of_the_rows_asked_for(device: CudaDevice) -> None:
    (first,), requests, *_ = decode_batches(4)
    logits = device.logits(first)
    assert logits.shape == (4, VOCAB_SIZE)
    for row, request in zip(logits, requests, strict=True):
        assert row[: 1 + len(request.token_ids)].tolist() == [len(request.token_ids), *request.token_ids]


def test_a_chunk_that_samples_nothing_gives_no_tokens(device: CudaDevice) -> None:
    (first,), *_ = decode_batches(2)
    output = device.execute(first._replace(logit_rows=np.empty(0, np.int32), sampling=None))
    assert len(output.tokens) == len(output.logprobs) == 0


def test_weights_are_on_the_gpu_and_noise_is_that_of_numpy(tmp_path: Path, cuda: FakeCuda) -> None:
    artifact = cuda_artifact(tmp_path / "random", random=NOISE)
    device = CudaDevice(artifact, kv_bytes=KV_BYTES, api=cuda)
    address = device.program.entries["step"].places["noise"].offset
    np.testing.assert_array_equal(array_at(address, np.uint16, NOISE.shape), random_param(NOISE))
    np.testing.assert_array_equal(artifact.params["noise"], random_param(NOISE))
    assert address % 256 == 0
    device.execute(decode_batches(3)[0][0])  # looks at the salt
    device.close()


def test_another_thread_may_use_and_close_it(artifact: Artifact, cuda: FakeCuda) -> None:
    device = CudaDevice(artifact, kv_bytes=KV_BYTES, api=cuda)
    requests = mixed_requests(1)[:3]
    with ThreadPoolExecutor(1) as thread:
        tokens = thread.submit(answers, engine(device), requests).result()
        logits = thread.submit(device.logits, decode_batches(2)[0][0]).result()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(device.close).result()
    assert tokens == [answer_alone(prompt, params, MAX_CONTEXT)[0] for prompt, params in requests]
    assert len(logits) == 2
    assert not cuda.allocated


def test_close_gives_everything_back(artifact: Artifact, cuda: FakeCuda) -> None:
    device = CudaDevice(artifact, kv_bytes=KV_BYTES, api=cuda)
    device.execute(decode_batches(2)[0][0])
    device.close()
    device.close()
    assert not cuda.allocated
    assert not cuda.pinned
    assert set(cuda.live.values()) == {0}


@pytest.mark.parametrize(
    "function", ["cuModuleLoadData", "cuMemHostAlloc", "cuTensorMapEncodeTiled", "cuGraphInstantiate"]
)
def test_a_failed_load_gives_everything_back(artifact: Artifact, cuda: FakeCuda, function: str) -> None:
    cuda.failing[function] = 999
    with pytest.raises(DeviceError, match=r"CUDA_ERROR_OTHER"):
        CudaDevice(artifact, kv_bytes=KV_BYTES, api=cuda)
    assert not cuda.allocated
    assert not cuda.pinned
    assert set(cuda.live.values()) == {0}


def test_cache_takes_what_the_fraction_leaves_and_no_more_than_can_be_used(artifact: Artifact) -> None:
    page = LAYERS * 2 * PAGE * 4
    ample = CudaDevice(artifact, api=fake_cuda())
    assert ample.num_pages == MAX_SEQS * -(-MAX_CONTEXT // PAGE)
    total = 40_000_000
    other = sum(ample.program.memory.taken.values()) - ample.num_pages * page
    ample.close()
    small = CudaDevice(artifact, api=fake_cuda(total_bytes=total), memory_fraction=(other + 20.5 * page) / total)
    assert small.num_pages == 20
    small.close()


def test_too_little_memory_is_accounted_for(artifact: Artifact) -> None:
    with pytest.raises(DeviceError, match=r"too little memory for the KV cache") as error:
        CudaDevice(artifact, kv_bytes=10, api=fake_cuda())
    assert "96 bytes" in str(error.value.expected)
    assert "10 bytes to give" in str(error.value.found)
    assert "for weights" in str(error.value.found)
    with pytest.raises(DeviceError, match=r"too little memory for weights") as error:
        CudaDevice(artifact, api=fake_cuda(total_bytes=10_000))
    assert error.value.found == "10000 of 10000 bytes free"


def test_limits_beyond_what_was_compiled_are_refused(artifact: Artifact) -> None:
    for limits in ({"max_tokens": MAX_TOKENS + 1}, {"max_seqs": 0}, {"max_tokens": 2, "max_seqs": 3}):
        with pytest.raises(EngineError):
            CudaDevice(artifact, api=fake_cuda(), **limits)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="memory_fraction"):
        CudaDevice(artifact, api=fake_cuda(), memory_fraction=1.5)


def test_a_step_beyond_the_limits_is_refused_and_the_next_one_runs(artifact: Artifact, cuda: FakeCuda) -> None:
    device = CudaDevice(artifact, kv_bytes=KV_BYTES, max_tokens=6, max_seqs=2, api=cuda)
    with pytest.raises(EngineError, match="dim T"):
        device.execute(decode_batches(5)[0][0])
    twin = FakeDevice(num_pages=NUM_PAGES, page_size=PAGE)
    batch = decode_batches(2)[0][0]
    np.testing.assert_array_equal(device.execute(batch).tokens, twin.execute(batch).tokens)
    device.close()


def test_a_plan_without_an_entry_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    broken = cuda_artifact(tmp_path / "broken")
    plan = broken.path / "plan.cuda.sm_90.json"
    plan.write_bytes(plan.read_bytes().replace(b'"feed":{', b'"food":{'))
    with pytest.raises(ArtifactError, match="lacks the entry 'feed'"):
        CudaDevice(broken, api=fake_cuda())
