"""The model of `cuda_fake_model` with real kernels: all that the runtime does with a plan, with an exact oracle.

    python -m tests.gpu.toy_model FOLDER [--weights-gb N]       # here: needs triton

A token is a hash of the history that its row reads from the cache, so any wrong pointer, dim, tensor map or order of
kernels shows. `--weights-gb` adds a parameter of noise of that size, to time how it is made.
"""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cuda_fake_model import MAX_CONTEXT, PAGE, TOP, cuda_artifact
from tests.gpu import arguments
from tests.runtime_fakes import VOCAB_SIZE
from warploom.runtime.manifest import RandomParam
from warploom.runtime.sampling_params import SamplingParams

SOURCE = f"""
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

PAGE = tl.constexpr({PAGE})
VOCAB = tl.constexpr({VOCAB_SIZE})
TOP = tl.constexpr({TOP})


@triton.jit
def write(token_ids, slots, cache, salt, tma, T):
    token = tl.program_id(0)
    eight = tl.arange(0, 8)
    zero = tl.sum(tma.load([8]) - tl.load(salt + 8 + eight)) + tl.load(salt) - 1000
    slot = tl.load(slots + token)
    place = slot // PAGE * 2 * PAGE + slot % PAGE
    tl.store(cache + place, (tl.load(token_ids + token) + zero).to(tl.float32), mask=slot >= 0)


@triton.jit
def _read(cache, table, starts, lens, positions, rows, history, counter, S, R, P):
    row = tl.program_id(0)
    place = tl.load(rows + row)
    s = tl.arange(0, 64)
    sequence = tl.sum((tl.load(starts + 1 + s, mask=s < S, other=2147483647) <= place).to(tl.int32))
    last = tl.load(lens + sequence) - (tl.load(starts + sequence + 1) - place)
    j = tl.arange(0, VOCAB)
    inside = (j >= 1) & (j <= last + 1)
    key = tl.where(inside, j - 1, 0)
    page = tl.load(table + sequence * P + key // PAGE, mask=inside, other=0)
    value = tl.load(cache + page * 2 * PAGE + key % PAGE, mask=inside, other=0.0)
    head = (tl.load(positions + place) + 1 + tl.load(counter)).to(tl.float32)
    tl.store(history + row * VOCAB + j, tl.where(j == 0, head, value))


@triton.jit
def read_few(cache, table, starts, lens, positions, rows, history, counter, S, R, P):
    _read(cache, table, starts, lens, positions, rows, history, counter, S, R, P)


@triton.jit
def read_many(cache, table, starts, lens, positions, rows, history, counter, S, R, P):
    _read(cache, table, starts, lens, positions, rows, history, counter, S, R, P)


@triton.jit
def copy(source, target, R):
    gdc_launch_dependents()
    gdc_wait()
    place = tl.program_id(0) * 2 * VOCAB + tl.arange(0, 2 * VOCAB)
    tl.store(target + place, tl.load(source + place, mask=place < R * VOCAB), mask=place < R * VOCAB)


@triton.jit
def sample(logits, seeds, positions, bias_tokens, bias_values, tokens, logprobs, R, B):
    row = tl.program_id(0)
    j = tl.arange(0, VOCAB)
    value = tl.load(logits + row * VOCAB + j)
    code = tl.sum((value.to(tl.int64) + 1) * (j * 7919 % 10007 + 13)) + tl.load(seeds + 2 * row).to(tl.int64) * 104729
    token = (code % VOCAB).to(tl.int32)
    for _ in range(4):
        banned = 0
        for b in range(B):
            hit = tl.load(bias_tokens + row * B + b) == token
            banned += (hit & (tl.load(bias_values + row * B + b) == float("-inf"))).to(tl.int32)
        token = tl.where(banned > 0, (token + 1) % VOCAB, token)
    tl.store(tokens + row, token)
    tl.store(logprobs + row, -tl.load(logits + row * VOCAB))


@triton.jit
def top(logits, tokens, values, R):
    row = tl.program_id(0)
    j = tl.arange(0, 4)
    tl.store(tokens + row * TOP + j, j, mask=j < TOP)
    tl.store(values + row * TOP + j, tl.load(logits + row * VOCAB + j * 0), mask=j < TOP)


@triton.jit
def feed_tokens(token_ids, token_sources, tokens, T):
    place = tl.program_id(0) * 256 + tl.arange(0, 256)
    source = tl.load(token_sources + place, mask=place < T, other=-1)
    token = tl.load(tokens + source, mask=source >= 0)
    tl.store(token_ids + place, token, mask=source >= 0)
"""
_F, _I = "*fp32", "*i32"
SIGNATURES = {
    "write": [_I, _I, _F, _I, "tensordesc<i32[8]>", "i32"],
    "read_few": [_F, _I, _I, _I, _I, _I, _F, _I, "i32", "i32", "i32"],
    "read_many": [_F, _I, _I, _I, _I, _I, _F, _I, "i32", "i32", "i32"],
    "copy": [_F, _F, "i32"],
    "sample": [_F, _I, _I, _I, _F, _I, _F, "i32", "i32"],
    "top": [_F, _I, _F, "i32"],
    "feed_tokens": [_I, _I, _I, "i32"],
}


def answer(prompt: Sequence[int], params: SamplingParams, eos: int) -> list[int]:
    """The oracle: what a request gets whatever runs beside it; `params` has a seed below 2**31 and max_tokens."""
    assert params.seed is not None
    assert params.max_tokens is not None
    history, ends = list(prompt), {eos, *params.stop_token_ids}
    while True:
        output = len(history) - len(prompt)
        row = [len(history), *history] + [0] * (VOCAB_SIZE - 1 - len(history))
        code = sum((value + 1) * (j * 7919 % 10007 + 13) for j, value in enumerate(row)) + params.seed * 104729
        token = code % VOCAB_SIZE
        while output < params.min_tokens and token in ends:
            token = (token + 1) % VOCAB_SIZE
        history.append(token)
        if token in ends or output + 1 == min(params.max_tokens, MAX_CONTEXT - len(prompt)):
            return history[len(prompt) :]


def compile_cubins() -> dict[str, bytes]:
    """The kernels for sm_90."""
    from warploom.codegen.cuda.worker import compile_job

    cubins = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, kinds in SIGNATURES.items():
            names = SOURCE.split(f"def {name}(")[1].split(")")[0].split(", ")
            job = {
                "name": name,
                "source": SOURCE,
                "signature": dict(zip(names, kinds, strict=True)),
                "options": {"num_warps": 4, "launch_pdl": name == "copy"},
                "capability": 90,
            }
            answered = compile_job(job, Path(folder))
            cubins[name] = base64.b64decode(answered["cubin"])
            print(name, len(cubins[name]), answered["shared_bytes"], answered["tensormaps"])
    return cubins


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights-gb", type=int, default=0)
    args = parser.parse_args()
    rows = args.weights_gb * 10**9 // 8192
    random = RandomParam([rows, 4096], "bf16", 0.0, 0.02, 7) if rows else None
    shutil.rmtree(args.folder, ignore_errors=True)
    print(cuda_artifact(args.folder, cubins=compile_cubins(), random=random))


if __name__ == "__main__":
    main()
