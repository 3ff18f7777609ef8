"""The CPU device over a model written in C by hand: pointers, dims, arena, errors, and the whole LLM on top.

The model's logits are a hash of the token history that it reads back from the KV cache through the page table, so
that a wrong pointer, dim or offset shows in the tokens.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.runtime_fakes import byte_level_tokenizer, one_step
from warploom.errors import ArtifactError, EngineError
from warploom.runtime import cpu
from warploom.runtime.artifact import Artifact, ArtifactWriter, load
from warploom.runtime.cpu import CpuDevice, select_variant
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.llm import LLM
from warploom.runtime.machine import available_memory, cpu_features, num_cores
from warploom.runtime.manifest import KVInfo, Manifest, ModelInfo, TargetInfo, TokenizerInfo, Variant
from warploom.runtime.plan import Buffer, DimRange, Entry, Plan
from warploom.runtime.request import Request
from warploom.runtime.sampler_inputs import SamplerTable
from warploom.runtime.sampling_params import SamplingParams

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

VOCAB, PAGE, MAX_CONTEXT = 340, 16, 96
SALT = 12345

SOURCE = """
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
typedef struct { int threads; } wl_pool;
wl_pool *wl_pool_create(int threads, int64_t scratch) {
    if (scratch != 640) return 0;
    wl_pool *pool = malloc(sizeof *pool); pool->threads = threads; return pool;
}
void wl_pool_destroy(wl_pool *pool) { free(pool); }

// buffers: token_ids positions slots page_table query_start context_lens logit_rows kv salt; dims: T S R P C
int32_t wl_step(wl_pool *pool, char *arena, void *const *buffers, const int64_t *dims) {
    const int32_t *tokens = buffers[0], *positions = buffers[1], *slots = buffers[2], *pages = buffers[3];
    const int32_t *starts = buffers[4], *lens = buffers[5], *rows = buffers[6], *salt = buffers[8];
    float *kv = buffers[7];
    int64_t T = dims[0], S = dims[1], R = dims[2], P = dims[3], C = dims[4];
    float *logits = (float *)(arena + 64 * T);
    for (int64_t t = 0; t < T; t++) {
        if (slots[t] >= C * 16) return 3;
        kv[slots[t] / 16 * 32 + slots[t] % 16] = tokens[t];
    }
    for (int64_t r = 0; r < R; r++) {
        int64_t s = 0;
        while (starts[s + 1] <= rows[r]) s++;
        if (positions[rows[r]] != lens[s] - (starts[s + 1] - rows[r])) return 4;
        uint64_t hash = *salt;
        for (int32_t j = 0; j <= positions[rows[r]]; j++)
            hash = (hash * 31 + (uint64_t)kv[pages[s * P + j / 16] * 32 + j % 16]) % 1000003;
        for (int64_t v = 0; v < 340; v++) logits[r * 340 + v] = (hash * (v + 7)) % 1009 / 100.0f;
    }
    return 0;
}

static float row_logprob(const float *x, int32_t token) {
    double sum = 0;
    for (int v = 0; v < 340; v++) sum += exp(x[v]);
    return x[token] - log(sum);
}

// buffers: logits bias_tokens bias_values; dims: R H B
int32_t wl_sample(wl_pool *pool, char *arena, void *const *buffers, const int64_t *dims) {
    const float *logits = buffers[0], *values = buffers[2];
    const int32_t *biased = buffers[1];
    int32_t *tokens = (int32_t *)arena;
    float *logprobs = (float *)(arena + 64 * dims[0]);
    for (int64_t r = 0; r < dims[0]; r++) {
        int32_t best = -1;
        float most = -INFINITY;
        for (int32_t v = 0; v < 340; v++) {
            float x = logits[r * 340 + v];
            for (int64_t b = 0; b < dims[2]; b++)
                if (biased[r * dims[2] + b] == v) x += values[r * dims[2] + b];
            if (x > most) { most = x; best = v; }
        }
        tokens[r] = best;
        logprobs[r] = row_logprob(logits + r * 340, best);
    }
    return 0;
}

int32_t wl_logprobs(wl_pool *pool, char *arena, void *const *buffers, const int64_t *dims) {
    for (int64_t i = 0; i < dims[0] * 20; i++) {
        ((int32_t *)arena)[i] = i % 20;
        ((float *)(arena + 80 * dims[0]))[i] = row_logprob((float *)buffers[0] + i / 20 * 340, i % 20);
    }
    return 0;
}
"""


def inputs(**shapes: list[str | int]) -> list[Buffer]:
    floats = {"kv", "logits", "bias_values"}
    return [Buffer(name, "input", "f32" if name in floats else "i32", shape) for name, shape in shapes.items()]


def make_plan() -> Plan:
    step = inputs(
        token_ids=["T"], positions=["T"], slots=["T"], page_table=["S", "P"], query_start=["S + 1"],
        context_lens=["S"], logit_rows=["R"], kv=[1, "C", 2, 1, PAGE],
    )  # fmt: skip
    sample = inputs(logits=["R", VOCAB], bias_tokens=["R", "B"], bias_values=["R", "B"])
    dims = {"T": 32, "S": 4, "R": 32, "P": MAX_CONTEXT // PAGE, "C": 1000}
    rows = {"R": DimRange(1, 32)}
    return Plan(
        entries={
            "step": Entry(
                {name: DimRange(1, most) for name, most in dims.items()},
                [*(buffer.name for buffer in step), "salt"],
                [
                    *step,
                    Buffer("salt", "param", "i32", [1]),
                    Buffer("logits", "result", "f32", ["R", VOCAB], "T * 64"),
                    Buffer("kv", "result", "f32", [1, "C", 2, 1, PAGE], aliases="kv"),
                ],
                [],
                f"T * 64 + R * {VOCAB * 4}",
            ),
            "sample": Entry(
                rows | {"H": DimRange(1, 999), "B": DimRange(1, 999)},
                ["logits", "bias_tokens", "bias_values"],
                [
                    *sample,
                    Buffer("tokens", "result", "i32", ["R"], 0),
                    Buffer("logprobs", "result", "f32", ["R"], "64 * R"),
                ],
                [],
                "128 * R",
            ),
            "logprobs": Entry(
                rows,
                ["logits"],
                [
                    *inputs(logits=["R", VOCAB]),
                    Buffer("top_tokens", "result", "i32", ["R", 20], 0),
                    Buffer("top_logprobs", "result", "f32", ["R", 20], "80 * R"),
                ],
                [],
                "160 * R",
            ),
        },
        kernels={},
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "model.c").write_text(SOURCE)
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(folder / "model.so"), str(folder / "model.c"), "-lm"]
    subprocess.run(command, check=True)
    return folder / "model.so"


def write(
    path: Path,
    library: Path,
    *,
    features: Sequence[str] = (),
    scratch: int = 640,
    salt: int = SALT,
    kv_bytes: int = 128,
) -> Artifact:
    manifest = Manifest(
        warploom_version="",
        model=ModelInfo("test/hash", "HashForCausalLM", 1),
        config={},
        vocab_size=VOCAB,
        max_context=MAX_CONTEXT,
        tokenizer=TokenizerInfo("tokenizer.json", eos_token_ids=[2]),
        quantization="f32",
        targets={
            "cpu": TargetInfo(
                "plan.cpu.json",
                KVInfo(1, 1, 1, PAGE, "f32", kv_bytes),
                [Variant("native", "model.so", list(features))],
                scratch,
            )
        },
    )
    with ArtifactWriter(path) as writer:
        writer.add_text("tokenizer.json", byte_level_tokenizer().to_str())
        writer.add_bytes("plan.cpu.json", msgspec.json.encode(make_plan()))
        writer.add_file("model.so", library)
        writer.add_param("salt", np.array([salt], np.int32))
        writer.finish(manifest)
    return load(path)


@pytest.fixture
def artifact(tmp_path: Path, library: Path) -> Artifact:
    return write(tmp_path / "artifact", library)


def logits_after(history: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    code = SALT
    for token in history:
        code = (code * 31 + token) % 1000003
    return np.array([code * (v + 7) % 1009 for v in range(VOCAB)], np.float32) / np.float32(100)


def greedy(prompt: Sequence[int], count: int) -> list[int]:
    history = list(prompt)
    for _ in range(count):
        history.append(int(logits_after(history).argmax()))
    return history[len(prompt) :]


def test_generation_through_native_code(artifact: Artifact) -> None:
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=2)
    prompts = [[5], [7] * 50, list(range(40)), [9, 8, 7], [1] * 33]
    with LLM(artifact, threads=1, max_num_seqs=3, max_num_batched_tokens=17) as llm:
        for prompt, completion in zip(prompts, llm.generate(prompts, params), strict=True):
            assert completion.token_ids == greedy(prompt, 20)
            assert completion.logprobs is not None
            history = prompt + completion.token_ids
            for place, entry in enumerate(completion.logprobs):
                raw = logits_after(history[: len(prompt) + place]).astype(np.float64)
                expected = raw - np.log(np.exp(raw).sum())
                np.testing.assert_allclose(entry.logprob, expected[entry.token_id], atol=1e-4)
                np.testing.assert_allclose([value for _, value in entry.top], expected[:2], atol=1e-4)


def test_bias_reaches_native_code(artifact: Artifact) -> None:
    banned = greedy([5], 1)[0]
    params = SamplingParams(temperature=0, max_tokens=1, logit_bias={banned: -np.inf})
    with LLM(artifact, threads=1) as llm:
        assert llm.generate([[5]], params)[0].token_ids[0] == int(np.argsort(-logits_after([5]), kind="stable")[1])


def test_logits_of_every_position(artifact: Artifact) -> None:
    device = CpuDevice(artifact, threads=1, max_tokens=4, max_seqs=2)
    cache = KVCache(device.num_pages, PAGE, 2, MAX_CONTEXT // PAGE)
    request = Request(0, [3, 1, 4], SamplingParams(), 1, frozenset(), 0, row=cache.open(3))
    batch = one_step([(request, 3)], cache, SamplerTable(2, VOCAB))
    logits = device.logits(batch._replace(logit_rows=np.arange(3, dtype=np.int32)))
    for position in range(3):
        np.testing.assert_array_equal(logits[position], logits_after([3, 1, 4][: position + 1]))
    device.close()
    with pytest.raises(EngineError, match="closed"):
        device.execute(batch)


def test_limits_come_from_what_was_compiled(artifact: Artifact) -> None:
    device = CpuDevice(artifact)
    assert (device.max_tokens, device.max_seqs, device.threads) == (32, 4, num_cores())
    assert device.num_pages == 4 * MAX_CONTEXT // PAGE
    assert CpuDevice(artifact, kv_bytes=1000).num_pages == 7
    for options, message in (
        ({"max_tokens": 33}, r"cannot take max_num_batched_tokens(.|\n)*1\.\.32"),
        ({"max_seqs": 0}, "cannot take max_num_seqs"),
        ({"max_tokens": 2, "max_seqs": 3}, "token for each sequence"),
        ({"kv_bytes": 127}, r"too little memory(.|\n)*128 bytes(.|\n)*found: 127"),
        ({"threads": 0}, "number of threads"),
    ):
        with pytest.raises(EngineError, match=message):
            CpuDevice(artifact, **options)


def test_parts_that_do_not_fit_are_named(tmp_path: Path, library: Path) -> None:
    with pytest.raises(EngineError, match="cannot be started"):
        CpuDevice(write(tmp_path / "scratch", library, scratch=1))
    with pytest.raises(ArtifactError, match=r"KV cache does not add up(.|\n)*128(.|\n)*found: 256"):
        CpuDevice(write(tmp_path / "kv", library, kv_bytes=256))
    text = tmp_path / "text.so"
    text.write_text("not code")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        CpuDevice(write(tmp_path / "code", text))
    (tmp_path / "empty.c").write_text(
        "void *wl_pool_create(int t, long s) { return (void *)8; } void wl_pool_destroy(void *p) {}"
    )
    command = ["cc", "-w", "-shared", "-fPIC", "-o", str(tmp_path / "empty.so"), str(tmp_path / "empty.c")]
    subprocess.run(command, check=True)
    with pytest.raises(ArtifactError, match="no function wl_step"):
        CpuDevice(write(tmp_path / "symbols", tmp_path / "empty.so"))


def test_a_parameter_must_fit_the_plan(artifact: Artifact) -> None:
    artifact.stored_params["salt"] = np.zeros(2, np.int32)
    with pytest.raises(ArtifactError, match=r"'salt' does not fit the plan(.|\n)*i32 \[1\](.|\n)*int32 \[2\]"):
        CpuDevice(artifact)
    del artifact.stored_params["salt"]
    with pytest.raises(ArtifactError, match="found: nothing"):
        CpuDevice(artifact)


def test_a_plan_must_have_every_entry(artifact: Artifact) -> None:
    (artifact.path / "plan.cpu.json").write_text('{"entries": {}, "kernels": {}}')
    with pytest.raises(ArtifactError, match=r"lacks the entry 'step'(.|\n)*found: no entries"):
        CpuDevice(artifact)


def test_a_cpu_without_the_features_is_told_which(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = write(tmp_path / "a", library, features=["avx2", "amx_future"])
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset(["avx2"]))
    with pytest.raises(ArtifactError, match=r"no code that this CPU can run(.|\n)*native needs amx_future"):
        CpuDevice(artifact)


def test_the_most_demanding_variant_that_fits_is_chosen() -> None:
    variants = [Variant("v4", "", ["avx512f", "avx2"]), Variant("v3", "", ["avx2"])]
    assert select_variant(variants, frozenset(["avx2", "avx512f", "sse"])).isa == "v4"
    assert select_variant(variants, frozenset(["avx2"])).isa == "v3"


def test_native_failures_and_bad_layouts_are_errors(artifact: Artifact) -> None:
    device = CpuDevice(artifact, threads=1)
    cache = KVCache(device.num_pages, PAGE, 2, MAX_CONTEXT // PAGE)
    request = Request(0, [3, 1, 4], SamplingParams(), 1, frozenset(), 0, row=cache.open(3))
    batch = one_step([(request, 3)], cache, SamplerTable(2, VOCAB))
    with pytest.raises(EngineError, match=r"entry step failed(.|\n)*found: 3"):
        device.execute(batch._replace(slots=batch.slots + 10**6))
    with pytest.raises(EngineError, match=r"slots of step has the wrong layout(.|\n)*int32(.|\n)*int64"):
        device.execute(batch._replace(slots=batch.slots.astype(np.int64)))
    with pytest.raises(EngineError, match=r"dim P of step is outside(.|\n)*1\.\.6(.|\n)*found: 7"):
        device.execute(batch._replace(page_table=np.zeros((1, 7), np.int32)))


def test_this_machine_can_be_described() -> None:
    assert num_cores() >= 1
    assert available_memory() > 1 << 20
    assert cpu_features()
