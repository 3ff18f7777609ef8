"""The LLM class on a fake device: texts, streams, chats, stops, errors, and what serving imports."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime_fakes import FakeDevice, answer_alone, fake_artifact
from warploom.errors import EngineError, InvalidRequestError
from warploom.runtime.artifact import Artifact
from warploom.runtime.llm import LLM
from warploom.runtime.manifest import GenerationInfo
from warploom.runtime.output import Delta
from warploom.runtime.sampling_params import SamplingParams

MAX_CONTEXT = 128


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return fake_artifact(tmp_path_factory.mktemp("llm") / "artifact", max_context=MAX_CONTEXT)


@pytest.fixture
def llm(artifact: Artifact) -> Iterator[LLM]:
    with LLM(artifact, device=FakeDevice(num_pages=200, vocab_size=artifact.manifest.vocab_size)) as llm:
        yield llm


def alone(llm: LLM, prompt: str | list[int], params: SamplingParams) -> tuple[list[int], str]:
    tokens = llm.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    return answer_alone(tokens, params, MAX_CONTEXT, vocab_size=llm.artifact.manifest.vocab_size)


def test_batched_prompts_give_what_each_gives_alone(llm: LLM) -> None:
    prompts = ["Once", "upon a time", "你好", "a" * 60, "x", "y", "z"]
    params = [SamplingParams(seed=seed, max_tokens=30) for seed in range(len(prompts))]
    progress: list[tuple[int, int]] = []
    completions = llm.generate(prompts, params, progress=lambda done, total: progress.append((done, total)))
    for prompt, one, completion in zip(prompts, params, completions, strict=True):
        tokens, reason = alone(llm, prompt, one)
        assert (completion.token_ids, completion.finish_reason) == (tokens, reason)
        visible = tokens[:-1] if reason == "stop" else tokens
        assert completion.text == llm.tokenizer.decode(visible)
        assert completion.prompt_token_ids == llm.tokenizer.encode(prompt)
        assert completion.metrics.total_time >= completion.metrics.time_to_first_token > 0
    assert progress[-1] == (len(prompts), len(prompts))


def test_one_string_and_token_lists_are_prompts_too(llm: LLM) -> None:
    params = SamplingParams(seed=1, max_tokens=5)
    assert len(llm.generate("Once", params)) == 1
    completions = llm.generate([[5, 6], [7]], params)
    assert [one.token_ids for one in completions] == [alone(llm, [5, 6], params)[0], alone(llm, [7], params)[0]]
    assert llm.generate([], params) == []


def test_more_prompts_than_the_queue_holds(artifact: Artifact) -> None:
    llm = LLM(artifact, device=FakeDevice(num_pages=200, vocab_size=artifact.manifest.vocab_size))
    llm._engine._max_waiting = 2
    completions = llm.generate([[n] for n in range(3, 20)], SamplingParams(seed=1, max_tokens=3))
    assert [one.prompt_token_ids[0] for one in completions] == list(range(3, 20))


def joined(deltas: list[Delta]) -> tuple[str, list[int]]:
    return "".join(delta.text for delta in deltas), [token for delta in deltas for token in delta.token_ids]


def test_a_stream_is_the_completion_in_pieces(llm: LLM) -> None:
    params = SamplingParams(seed=4, max_tokens=40)
    deltas = list(llm.stream("Once", params))
    whole = llm.generate("Once", params)[0]
    assert joined(deltas) == (whole.text, whole.token_ids)
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == whole.finish_reason


def test_streams_can_be_read_in_turns_and_around_a_generate(llm: LLM) -> None:
    params = [SamplingParams(seed=seed, max_tokens=20, ignore_eos=True) for seed in range(3)]
    first, second = llm.stream("a", params[0]), llm.stream("b", params[1])
    got = ([next(first)], [next(second)])
    between = llm.generate("c", params[2])[0]
    got[1].extend(second)
    got[0].extend(first)
    assert joined(got[0])[1] == alone(llm, "a", params[0])[0]
    assert joined(got[1])[1] == alone(llm, "b", params[1])[0]
    assert between.token_ids == alone(llm, "c", params[2])[0]


def test_threads_take_turns(artifact: Artifact) -> None:
    class Yielding(FakeDevice):
        def wait(self) -> None:
            time.sleep(0.0005)  # as a device that computes lets other threads run

    params = [SamplingParams(seed=seed, max_tokens=15, ignore_eos=True) for seed in range(8)]
    prompts = ["Once", "upon", "a", "time", "there", "was", "a", "loom"]
    with LLM(artifact, device=Yielding(num_pages=200, vocab_size=artifact.manifest.vocab_size)) as llm:

        def ask(number: int) -> list[int]:
            if number % 4 == 3:
                return joined(list(llm.stream(prompts[number], params[number])))[1]
            return llm.generate(prompts[number], params[number])[0].token_ids

        with ThreadPoolExecutor(len(prompts)) as threads:
            found = list(threads.map(ask, range(len(prompts)), timeout=60))
        assert found == [alone(llm, *one)[0] for one in zip(prompts, params, strict=True)]
        llm._engine.check()


def test_a_closed_model_says_so(llm: LLM) -> None:
    params = SamplingParams(ignore_eos=True, max_tokens=50)
    stream = llm.stream("a", params)
    next(stream)
    llm.close()
    llm.close()
    with pytest.raises(EngineError, match="has been closed"):
        list(stream)
    for ask in (llm.generate, llm.stream):
        with pytest.raises(EngineError, match="has been closed"):
            list(ask("a", params))


def test_an_abandoned_stream_frees_what_it_held(llm: LLM) -> None:
    never_read = llm.stream("a", SamplingParams(ignore_eos=True, max_tokens=None))
    stream = llm.stream("a", SamplingParams(ignore_eos=True, max_tokens=None))
    next(stream)
    assert llm._engine.has_work
    stream.close()  # type: ignore[attr-defined]
    del never_read
    assert not llm._engine.has_work
    llm._engine.check()


def test_stop_strings_cut_the_text_across_tokens(llm: LLM) -> None:
    params = SamplingParams(seed=4, max_tokens=60, ignore_eos=True)
    whole = llm.generate("Once", params)[0].text
    for start in range(1, len(whole) - 5, 7):
        stop = whole[start : start + 4]
        cut = llm.generate("Once", SamplingParams(seed=4, max_tokens=60, ignore_eos=True, stop=stop))[0]
        assert cut.text == whole[: whole.index(stop)]
        assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
        assert not llm._engine.has_work
        deltas = list(llm.stream("Once", SamplingParams(seed=4, max_tokens=60, ignore_eos=True, stop=stop)))
        assert joined(deltas) == (cut.text, cut.token_ids)


def test_text_held_for_a_stop_string_is_given_at_the_end(llm: LLM) -> None:
    params = SamplingParams(seed=4, max_tokens=10, ignore_eos=True)
    whole = llm.generate("Once", params)[0].text
    held = llm.generate("Once", SamplingParams(seed=4, max_tokens=10, ignore_eos=True, stop=whole[-3:] + "never"))[0]
    assert (held.text, held.finish_reason) == (whole, "length")


def test_stop_strings_wait_for_min_tokens(llm: LLM) -> None:
    params = SamplingParams(seed=4, max_tokens=60, ignore_eos=True)
    first = next(iter(llm.generate("Once", params)[0].text))
    late = SamplingParams(seed=4, max_tokens=60, ignore_eos=True, stop=first, min_tokens=20)
    assert len(llm.generate("Once", late)[0].token_ids) >= 20


def test_a_stop_token_ends_the_output_and_is_no_text(llm: LLM) -> None:
    whole = llm.generate("Once", SamplingParams(seed=4, max_tokens=60, ignore_eos=True))[0]
    place = next(i for i, token in enumerate(whole.token_ids) if i > 5 and llm.tokenizer.decode([token]).isalpha())
    stop = whole.token_ids[place]
    cut = llm.generate("Once", SamplingParams(seed=4, max_tokens=60, ignore_eos=True, stop_token_ids=[stop]))[0]
    place = whole.token_ids.index(stop)
    assert cut.token_ids == whole.token_ids[: place + 1]
    assert cut.text == llm.tokenizer.decode(whole.token_ids[:place])
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)


def test_max_tokens_is_clipped_to_the_context(llm: LLM) -> None:
    completion = llm.generate([[5] * 120], SamplingParams(seed=1, max_tokens=None, ignore_eos=True))[0]
    assert (len(completion.token_ids), completion.finish_reason) == (8, "length")


def test_logprobs_come_one_per_token(llm: LLM) -> None:
    completion = llm.generate("Once", SamplingParams(seed=1, max_tokens=6, ignore_eos=True, logprobs=3))[0]
    assert completion.logprobs is not None
    assert [entry.token_id for entry in completion.logprobs] == completion.token_ids
    assert all(len(entry.top) == 3 for entry in completion.logprobs)
    assert llm.generate("Once", SamplingParams(max_tokens=2))[0].logprobs is None


def test_n_answers_follow_each_other_and_the_best_are_chosen(llm: LLM) -> None:
    params = SamplingParams(seed=5, max_tokens=12, n=3)
    completions = llm.generate([[5, 6, 7], llm.tokenizer.encode("Once")], params)
    assert [one.index for one in completions] == [0, 1, 2] * 2
    for index, one in enumerate(completions[:3]):
        assert one.token_ids == alone(llm, [5, 6, 7], SamplingParams(seed=5 + index, max_tokens=12))[0]
    made = llm.generate([[5, 6, 7]], SamplingParams(seed=5, max_tokens=12, n=6, logprobs=0))
    best = llm.generate([[5, 6, 7]], SamplingParams(seed=5, max_tokens=12, n=2, best_of=6))

    def mean(place: int) -> float:
        logprobs = made[place].logprobs or []
        return sum(entry.logprob for entry in logprobs) / len(logprobs)

    ranked = sorted(range(6), key=mean, reverse=True)
    assert [one.token_ids for one in best] == [made[place].token_ids for place in ranked[:2]]
    assert [(one.index, one.logprobs) for one in best] == [(0, None), (1, None)]
    with pytest.raises(InvalidRequestError, match="one answer"):
        llm.stream("a", params)


def test_what_is_decoded_at_the_end_is_what_is_decoded_on_the_way(llm: LLM) -> None:
    params = SamplingParams(seed=4, max_tokens=60)
    never = SamplingParams(seed=4, max_tokens=60, stop="never to be found")
    patient, hasty = llm.generate("Once", params)[0], llm.generate("Once", never)[0]
    assert (patient.text, patient.finish_reason) == (hasty.text, hasty.finish_reason)
    assert patient.metrics.time_to_first_token < patient.metrics.total_time


def test_prompt_logprobs_come_with_the_completion(llm: LLM) -> None:
    params = SamplingParams(seed=1, max_tokens=3, prompt_logprobs=1, n=2)
    first, second = llm.generate([[5, 6, 7, 8]], params)
    assert [entry.token_id for entry in first.prompt_logprobs or []] == [6, 7, 8]
    assert second.prompt_logprobs is None


def test_bad_words_are_given_to_the_engine_as_tokens(llm: LLM) -> None:
    llm.generate("a", SamplingParams(seed=1, max_tokens=2, bad_words=["upon", "é"]))
    device = llm.device
    assert isinstance(device, FakeDevice)
    sampling = device.batches[-1].sampling
    assert sampling is not None
    whole = {tuple(llm.tokenizer.encode(text)) for text in ("upon", " upon", "é", " é")}
    assert {(token,) for token in sampling.bias_tokens[0].tolist()} >= {one for one in whole if len(one) == 1}


def test_chat_goes_through_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hello"}]
    params = SamplingParams(seed=1, max_tokens=8)
    completion = llm.chat(messages, params)
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert completion.prompt_token_ids == llm.tokenizer.encode(text)
    assert joined(list(llm.stream_chat(messages, params))) == (completion.text, completion.token_ids)


def test_requests_without_parameters_use_the_model_s_own(tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path / "a", generation=GenerationInfo(do_sample=True, top_k=5, max_new_tokens=3))
    device = FakeDevice(num_pages=200, vocab_size=artifact.manifest.vocab_size)
    LLM(artifact, device=device).generate("a")
    sampling = device.batches[0].sampling
    assert sampling is not None
    assert sampling.top_k.tolist() == [5]


@pytest.mark.parametrize(
    ("prompts", "params", "message"),
    [
        ("", None, "prompt is empty"),
        (["fine", "long " * 200], None, r"longer than the context(.|\n)*at most 127 tokens"),
        ("\ud800", None, "not valid Unicode"),
        ([[5], [10**9]], None, "not valid"),
        (["a", "b"], [SamplingParams()], r"do not match(.|\n)*list of 2"),
    ],
)
def test_bad_prompts_are_refused_before_anything_runs(
    llm: LLM, prompts: list[str], params: list[SamplingParams] | None, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        llm.generate(prompts, params)
    assert not llm._engine.has_work
    with pytest.raises(InvalidRequestError):
        llm.stream("long " * 200)


@pytest.mark.parametrize("prompt", [5, b"bytes", {"a": 1}, None])
def test_what_is_no_prompt_is_named(llm: LLM, prompt: Any) -> None:
    with pytest.raises(InvalidRequestError, match=rf"neither text nor tokens(.|\n)*{type(prompt).__name__}"):
        llm.generate([prompt])


def test_tokens_may_be_an_array(llm: LLM) -> None:
    params = SamplingParams(seed=2, max_tokens=5)
    whole: Any = np.array([[5, 6, 7]])
    (found,) = llm.generate(whole, params)
    assert (found.prompt_token_ids, found.token_ids) == ([5, 6, 7], alone(llm, [5, 6, 7], params)[0])
    with pytest.raises(InvalidRequestError, match=r"token id in the prompt(.|\n)*5\.5"):
        llm.generate(whole + 0.5, params)


@pytest.mark.parametrize("params", [{"max_tokens": 3}, [{"max_tokens": 3}]])
def test_what_is_no_sampling_parameters_is_named(llm: LLM, params: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"no sampling parameters(.|\n)*SamplingParams"):
        llm.generate(["a"], params)


@pytest.mark.parametrize("messages", ["hi", ["hi"], {"role": "user", "content": "hi"}])
def test_what_is_no_conversation_is_named(llm: LLM, messages: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"list of messages(.|\n)*content"):
        llm.chat(messages)


def test_a_failed_step_is_told_to_those_it_ended(llm: LLM) -> None:
    stream = llm.stream("a", SamplingParams(seed=1, max_tokens=9))
    next(stream)
    assert isinstance(llm.device, FakeDevice)
    llm.device.failure = RuntimeError("bus error")
    with pytest.raises(EngineError, match=r"failed in a step(.|\n)*bus error"):
        llm.generate("b")
    with pytest.raises(EngineError, match="bus error"):
        list(stream)
    llm.device.failure = None
    assert llm.generate("b", SamplingParams(seed=1, max_tokens=2))[0].finish_reason in ("length", "stop")


def test_an_interrupted_generate_leaves_nothing_running(llm: LLM) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    params = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (1, 50)]
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b"], params, progress=interrupt)
    assert not llm._engine.has_work


FORBIDDEN = ("torch", "triton", "mlir", "transformers", "ml_dtypes", "safetensors", "huggingface_hub", "gguf")


def test_serving_imports_no_compiler_and_no_torch(artifact: Artifact) -> None:
    script = f"""
import sys
import warploom
assert "numpy" not in sys.modules, "import warploom must be cheap"
warploom.LLM, warploom.SamplingParams
artifact = warploom.load({str(artifact.path)!r})
from warploom.runtime.tokenizer import Tokenizer
Tokenizer.from_artifact(artifact).encode_chat([{{"role": "user", "content": "hi"}}])
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "tokenizers" in loaded
    assert not loaded & set(FORBIDDEN)


def test_a_device_does_not_wait_until_all_requests_are_queued(artifact: Artifact) -> None:
    device = FakeDevice(num_pages=400, max_tokens=64, max_seqs=64, vocab_size=artifact.manifest.vocab_size)
    with LLM(artifact, device=device) as llm:
        waiting: list[int] = []
        step = llm._engine.step
        llm._engine.step = lambda: waiting.append(llm.stats().waiting) or step()  # type: ignore[method-assign,func-returns-value]
        made = llm.generate([[5] * 8] * 300, SamplingParams(seed=1, max_tokens=2, ignore_eos=True))
    assert len(made) == 300
    assert waiting[0] == 64
