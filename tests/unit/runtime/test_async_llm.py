"""AsyncLLM on a fake device: many readers at once, cancellation, a bounded queue, deadlines, a device that dies."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.runtime_fakes import FakeDevice, answer_alone, fake_artifact
from warploom.errors import DeadlineError, EngineDeadError, EngineError, InvalidRequestError, QueueFullError
from warploom.runtime.artifact import Artifact
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.output import Delta
from warploom.runtime.sampling_params import SamplingParams

MAX_CONTEXT = 128
ENDLESS = SamplingParams(seed=1, max_tokens=None, ignore_eos=True)
T = TypeVar("T")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return fake_artifact(tmp_path_factory.mktemp("async") / "artifact", max_context=MAX_CONTEXT)


@pytest.fixture
def device(artifact: Artifact) -> FakeDevice:
    return FakeDevice(num_pages=200, vocab_size=artifact.manifest.vocab_size)


@pytest.fixture
def no_leaks() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def serve(
    artifact: Artifact, device: FakeDevice, use: Callable[[AsyncLLM], Awaitable[T]], hang_timeout_s: float = 60
) -> T:
    async def run() -> T:
        async with AsyncLLM.load(artifact, device=device, max_queue=8, hang_timeout_s=hang_timeout_s) as llm:
            result = await use(llm)
            await idle(llm)
            return result

    return asyncio.run(run())


async def idle(llm: AsyncLLM) -> None:
    """Wait until nothing runs; then every page must be free again, or kept for its prefix alone."""
    while (stats := llm.stats()).dead is None and (stats.running or stats.waiting or stats.heartbeat_age):
        await asyncio.sleep(0.001)
    if llm.stats().dead is None:
        llm._engine.check()
        assert llm.stats().kv_usage == 0
        assert not llm._answers


async def read(deltas: AsyncIterator[Delta]) -> list[Delta]:
    return [delta async for delta in deltas]


def alone(artifact: Artifact, prompt: list[int], params: SamplingParams) -> tuple[list[int], str]:
    return answer_alone(prompt, params, MAX_CONTEXT, vocab_size=artifact.manifest.vocab_size)


def answer(deltas: list[Delta], index: int = 0) -> tuple[list[int], str | None]:
    own = [delta for delta in deltas if delta.index == index]
    return [token for delta in own for token in delta.token_ids], own[-1].finish_reason


@pytest.mark.usefixtures("no_leaks")
def test_readers_at_once_get_what_each_would_get_alone(artifact: Artifact, device: FakeDevice) -> None:
    params = [SamplingParams(seed=seed, max_tokens=5 + seed) for seed in range(10)]

    async def use(llm: AsyncLLM) -> list[list[Delta]]:
        return await asyncio.gather(*(read(llm.generate([5, one.seed or 0], one)) for one in params))

    for one, deltas in zip(params, serve(artifact, device, use), strict=True):
        assert answer(deltas) == alone(artifact, [5, one.seed or 0], one)
        metrics = deltas[-1].metrics
        assert metrics is not None
        assert (metrics.num_prompt_tokens, metrics.num_output_tokens) == (2, len(answer(deltas)[0]))
        assert metrics.total_time >= metrics.time_to_first_token >= metrics.queue_time >= 0


def test_text_is_decoded_and_stop_strings_end_the_answer(artifact: Artifact, device: FakeDevice) -> None:
    async def use(llm: AsyncLLM) -> tuple[str, str]:
        whole = "".join([delta.text async for delta in llm.generate("Once", ENDLESS)])
        stopping = SamplingParams(seed=1, max_tokens=None, ignore_eos=True, stop=whole[20:24])
        deltas = await read(llm.generate("Once", stopping))
        assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", whole[20:24])
        return whole, "".join(delta.text for delta in deltas)

    whole, cut = serve(artifact, device, use)
    assert cut == whole[: whole.index(whole[20:24])]


def test_n_answers_have_their_own_seeds(artifact: Artifact, device: FakeDevice) -> None:
    async def use(llm: AsyncLLM) -> list[Delta]:
        return await read(llm.generate([7] * 9, SamplingParams(seed=3, max_tokens=6, n=3)))

    deltas = serve(artifact, device, use)
    for index in range(3):
        expected = alone(artifact, [7] * 9, SamplingParams(seed=3 + index, max_tokens=6))
        assert answer(deltas, index) == expected


def test_the_best_answers_come_when_all_are_made(artifact: Artifact, device: FakeDevice) -> None:
    async def use(llm: AsyncLLM) -> tuple[list[Delta], list[Delta]]:
        best = await read(llm.generate([7] * 9, SamplingParams(seed=3, max_tokens=6, n=2, best_of=5)))
        return best, await read(llm.generate([7] * 9, SamplingParams(seed=3, max_tokens=6, n=5, logprobs=0)))

    best, made = serve(artifact, device, use)
    assert [delta.index for delta in best] == [0, 1]

    def mean(index: int) -> float:
        logprobs = [entry.logprob for delta in made if delta.index == index for entry in delta.logprobs or ()]
        return sum(logprobs) / len(logprobs)

    ranked = sorted(range(5), key=mean, reverse=True)
    assert [answer(best, index) for index in range(2)] == [answer(made, index) for index in ranked[:2]]
    assert all(delta.logprobs is None for delta in best)


@pytest.mark.usefixtures("no_leaks")
def test_leaving_a_stream_frees_everything(artifact: Artifact, device: FakeDevice) -> None:
    async def use(llm: AsyncLLM) -> None:
        async for _ in llm.generate([5], ENDLESS):
            break
        async with await llm.start([5], ENDLESS) as stream:
            await anext(stream)
        four = await llm.start([6], SamplingParams(max_tokens=None, ignore_eos=True, n=4))
        task = asyncio.create_task(read(four))
        await asyncio.sleep(0)  # so that it waits
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    serve(artifact, device, use)


def test_refusals_come_before_anything_is_queued(artifact: Artifact, device: FakeDevice) -> None:
    async def use(llm: AsyncLLM) -> None:
        for prompt in ("", "long " * 200, [10**9], "\ud800"):
            with pytest.raises(InvalidRequestError):
                await llm.start(prompt)
        with pytest.raises(InvalidRequestError, match="parameter n"):
            await llm.start("a", SamplingParams(n=100))

    serve(artifact, device, use)


def test_a_full_queue_says_when_to_come_back(artifact: Artifact, device: FakeDevice) -> None:
    async def use(llm: AsyncLLM) -> None:
        streams = [await llm.start([5], ENDLESS) for _ in range(4 + 8)]
        with pytest.raises(QueueFullError) as refused:
            await llm.start([5], ENDLESS)
        assert 1 <= refused.value.retry_after_s <= 60
        await streams[0].aclose()
        await (await llm.start([5], ENDLESS)).aclose()
        for stream in streams:
            await stream.aclose()

    serve(artifact, device, use)


class SlowDevice(FakeDevice):
    """Every step waits for `gate`."""

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        self.gate = threading.Event()

    def wait(self) -> None:
        self.gate.wait()


def test_a_deadline_cancels(artifact: Artifact) -> None:
    device = SlowDevice(num_pages=200, vocab_size=artifact.manifest.vocab_size)

    async def use(llm: AsyncLLM) -> None:
        with pytest.raises(DeadlineError, match=r"within 0\.05 s"):
            await read(llm.generate([5], ENDLESS, timeout_s=0.05))
        device.gate.set()
        assert answer(await read(llm.generate([5], ENDLESS, timeout_s=60)))[1] == "length"

    serve(artifact, device, use)


@pytest.mark.usefixtures("no_leaks")
def test_a_failed_step_ends_the_engine_and_everyone_is_told(artifact: Artifact, device: FakeDevice) -> None:
    async def use(llm: AsyncLLM) -> None:
        streams = [await llm.start([5], ENDLESS) for _ in range(3)]
        await anext(streams[0])
        device.failure = RuntimeError("bus error")
        for stream in streams:
            with pytest.raises(EngineDeadError, match="bus error"):
                await read(stream)
        with pytest.raises(EngineDeadError):
            await llm.start([5], ENDLESS)
        assert "bus error" in (llm.stats().dead or "")

    serve(artifact, device, use)


def test_an_answer_that_cannot_be_decoded_fails_alone(
    artifact: Artifact, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(llm: AsyncLLM) -> None:
        bad, good = await llm.start([5], ENDLESS), await llm.start([6], SamplingParams(seed=2, max_tokens=30))
        text = llm._answers[min(llm._answers)].text
        monkeypatch.setattr(text, "_detokenizer", None)
        with pytest.raises(EngineError, match="could not be decoded"):
            await read(bad)
        assert answer(await read(good)) == alone(artifact, [6], SamplingParams(seed=2, max_tokens=30))

    serve(artifact, device, use)


def test_a_hung_step_shows_in_the_heartbeat_and_fails_requests(artifact: Artifact) -> None:
    device = SlowDevice(num_pages=200, vocab_size=artifact.manifest.vocab_size)

    async def use(llm: AsyncLLM) -> None:
        stream = await llm.start([5], ENDLESS)
        started = time.monotonic()
        with pytest.raises(EngineDeadError, match="not ended"):
            await anext(stream)
        assert llm.stats().heartbeat_age > 0.2
        assert time.monotonic() - started < 5
        device.gate.set()

    serve(artifact, device, use, hang_timeout_s=0.2)


@pytest.mark.usefixtures("no_leaks")
def test_closing_drains_and_then_ends_what_is_left(artifact: Artifact, device: FakeDevice) -> None:
    async def run() -> None:
        llm = AsyncLLM.load(artifact, device=device)
        short = asyncio.create_task(read(await llm.start([5], SamplingParams(seed=1, max_tokens=20, ignore_eos=True))))
        await llm.close(drain_s=30)
        assert len(answer(await short)[0]) == 20
        with pytest.raises(EngineError, match="being closed"):
            await llm.start([5])

    asyncio.run(run())


def test_closing_without_a_drain_tells_the_readers(artifact: Artifact) -> None:
    device = SlowDevice(num_pages=200, vocab_size=artifact.manifest.vocab_size)

    async def run() -> None:
        llm = AsyncLLM.load(artifact, device=device)
        stream = await llm.start([5], ENDLESS)
        closing = asyncio.create_task(llm.close())
        with pytest.raises(EngineError, match="closed"):
            await read(stream)
        device.gate.set()
        await closing

    asyncio.run(run())


def test_the_package_offers_it(tmp_path: Path) -> None:
    import warploom

    assert warploom.AsyncLLM is AsyncLLM
