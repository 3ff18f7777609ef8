"""Stand-ins for what the runtime needs: a device without a model, tokenizers without a download, an artifact."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from warploom.runtime.artifact import Artifact, ArtifactWriter, load
from warploom.runtime.device import StepOutput
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.manifest import GenerationInfo, KVInfo, Manifest, ModelInfo, TargetInfo, TokenizerInfo
from warploom.runtime.request import Request
from warploom.runtime.sampler_inputs import SamplerInputs, SamplerTable
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.scheduler import Chunk
from warploom.runtime.step_batch import StepBatch, lay_out

I32 = NDArray[np.int32]
VOCAB_SIZE = 64
EOS = 2


def next_token(
    history: Sequence[int], seed: int, banned: frozenset[int] = frozenset(), vocab_size: int = VOCAB_SIZE
) -> int:
    """The fake model: any change of history, position or seed changes the token."""
    code = zlib.crc32(np.array([seed & 0xFFFFFFFF, seed >> 32, len(history), *history], "<i8").tobytes())
    for _ in range(vocab_size if banned else 0):  # if all are, one of them
        code += code % vocab_size in banned
    return code % vocab_size


def answer_alone(
    prompt: Sequence[int],
    params: SamplingParams,
    max_context: int,
    eos: Sequence[int] = (EOS,),
    vocab_size: int = VOCAB_SIZE,
) -> tuple[list[int], str]:
    """What a request must give whatever runs beside it: tokens and finish reason. `params.seed` is set."""
    assert params.seed is not None
    history = list(prompt)
    ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else frozenset(eos))
    most = min(params.max_tokens or max_context, max_context - len(prompt))
    while True:
        output = len(history) - len(prompt)
        token = next_token(history, params.seed, ends if output < params.min_tokens else frozenset(), vocab_size)
        history.append(token)
        if token in ends:
            return history[len(prompt) :], "stop"
        if output + 1 == most:
            return history[len(prompt) :], "length"


class FakeDevice:
    """A device whose cache remembers which token was written where, and whose tokens depend on what it reads back."""

    def __init__(
        self,
        *,
        num_pages: int = 64,
        page_size: int = 4,
        max_tokens: int = 16,
        max_seqs: int = 4,
        max_rows: int | None = None,
        vocab_size: int = VOCAB_SIZE,
        cheap_tokens: int = 16,
    ) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self.max_tokens, self.max_seqs = max_tokens, max_seqs
        self.max_rows = max_rows or max_seqs
        self.cheap_tokens = cheap_tokens
        self.last_tokens: I32 | None = None  # of the last step that sampled
        self._tickets: deque[tuple[int, StepBatch, I32 | None]] = deque()
        self._numbers = count()
        self._forwarded: tuple[int, StepBatch, I32 | None] | None = None
        self.vocab_size = vocab_size
        self.memory = np.full((num_pages * page_size, 2), -1)  # [slot, (token, position)]
        self.failure: Exception | None = None
        self.garbage: set[int] = set()  # seeds of requests whose output is not a number
        self.batches: list[StepBatch] = []

    def wait(self) -> None:
        """What a step does first; for subclasses that take their time."""

    def launch(self, batch: StepBatch, token_sources: I32 | None = None) -> int:
        return self.sample(self.forward(batch, token_sources), batch)

    def forward(self, batch: StepBatch, token_sources: I32 | None = None) -> int:
        self._forwarded = next(self._numbers), batch, token_sources
        return self._forwarded[0]

    def sample(self, forwarded: int, batch: StepBatch) -> int:
        """Steps run as late as they can: when their result is asked for."""
        assert self._forwarded is not None
        number, before, token_sources = self._forwarded
        self._forwarded = None
        assert number == forwarded
        assert before[:7] == batch[:7], "the same arrays"
        self._check_shapes(batch)
        self._tickets.append((number, batch, token_sources))
        assert len(self._tickets) <= 2, "too many steps in flight"
        return number

    def result(self, ticket: int) -> StepOutput:
        number, batch, sources = self._tickets.popleft()
        assert number == ticket, "results are read in order"
        if sources is not None:
            assert self.last_tokens is not None
            assert sources.max() < len(self.last_tokens)
            fed = np.where(sources < 0, batch.token_ids, self.last_tokens.take(sources, mode="clip"))
            batch = batch._replace(token_ids=fed.astype(np.int32))
        output = self.run(batch)
        if batch.sampling is not None:
            self.last_tokens = output.tokens
        return output

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.result(self.launch(batch))

    def run(self, batch: StepBatch) -> StepOutput:
        self.batches.append(batch)
        self.wait()
        if self.failure:
            raise self.failure
        self.memory[batch.slots] = np.stack([batch.token_ids, batch.positions], axis=1)
        if batch.sampling is None:
            return StepOutput(np.empty(0, np.int32), np.empty(0, np.float32), None, None)
        histories = [self._read(batch, int(row)) for row in batch.logit_rows]
        tokens, logprobs = [], []
        for index, history in enumerate(histories):
            forced = _forced(batch.sampling, index)
            if forced is not None:
                tokens.append(forced)
                logprobs.append(-float(len(history)) - forced / 64)
                continue
            seed = self._check_row(batch.sampling, index, history)
            tokens.append(next_token(history, seed, _banned(batch.sampling, index), self.vocab_size))
            logprobs.append(np.nan if seed in self.garbage else -float(len(history)))
        chosen, theirs = np.array(tokens, np.int32), np.array(logprobs, np.float32)
        if not batch.top_logprobs:
            return StepOutput(chosen, theirs, None, None)
        ranks = np.tile(np.arange(20, dtype=np.int32), (len(tokens), 1))
        return StepOutput(chosen, theirs, chosen[:, None] + ranks, -ranks.astype(np.float32))

    def close(self) -> None:
        self.failure = RuntimeError("closed")

    def _read(self, batch: StepBatch, row: int) -> list[int]:
        """The tokens that a logit row attends to, read through its sequence's page table."""
        sequence = int(np.searchsorted(batch.query_start, row, side="right")) - 1
        after = int(batch.query_start[sequence + 1]) - row
        position = int(batch.context_lens[sequence]) - after
        assert position == batch.positions[row]
        keys = np.arange(position + 1)
        slots = batch.page_table[sequence, keys // self.page_size] * self.page_size + keys % self.page_size
        tokens, positions = self.memory[slots].T
        np.testing.assert_array_equal(positions, keys)
        return [int(token) for token in tokens]

    def _check_shapes(self, batch: StepBatch) -> None:
        num_seqs, num_pages = batch.page_table.shape
        assert 1 <= len(batch.token_ids) <= self.max_tokens
        assert 1 <= num_seqs <= self.max_seqs
        assert len(batch.logit_rows) <= self.max_rows
        assert num_pages == -(-batch.context_lens.max() // self.page_size)
        assert batch.query_start.shape == (num_seqs + 1,)
        assert batch.query_start[0] == 0
        assert batch.query_start[-1] == len(batch.token_ids) == len(batch.positions) == len(batch.slots)
        assert (np.diff(batch.query_start) > 0).all()
        assert len(set(batch.slots.tolist())) == len(batch.slots)
        for array in (*batch[:7], *(batch.sampling or ())):
            assert array.flags.c_contiguous
            assert array.dtype in (np.int32, np.float32)

    def _check_row(self, sampling: SamplerInputs, index: int, history: list[int]) -> int:
        """Check what the row says of its history; return its seed."""
        assert sampling.sample_positions[index] == len(history)
        penalized = sampling.penalty_tokens[index]
        if sampling.repetition_penalty[index] != 1:
            assert sorted(penalized[penalized >= 0].tolist()) == sorted(set(history))
        else:
            assert (penalized == -1).all()
        return int(sampling.seeds[index].astype(np.int32).view("<u8")[0])


def _forced(sampling: SamplerInputs, index: int) -> int | None:
    """The token that a row gets whatever its logits; see `SamplerTable.gather`."""
    strong = np.flatnonzero(sampling.bias_values[index] > 1e29)
    return int(sampling.bias_tokens[index][strong[0]]) if len(strong) else None


def _banned(sampling: SamplerInputs, index: int) -> frozenset[int]:
    banned = sampling.bias_tokens[index][np.isneginf(sampling.bias_values[index])]
    bits = np.unpackbits(sampling.banned_bits[index].astype("<i4").view(np.uint8), bitorder="little")
    return frozenset(banned.tolist()) | frozenset(np.flatnonzero(bits).tolist())


class Oracle:
    """Drafts what the fake model will say, wrong in places that the bits of a number decide."""

    def __init__(self, mistakes: int, can: bool = True) -> None:
        self.mistakes, self.can = mistakes, can
        self.drafted = 0

    def can_draft(self, request: Request) -> bool:
        return self.can

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> list[list[int]]:
        return [self._continued(request, number) for request, number in wanted]

    def _continued(self, request: Request, number: int) -> list[int]:
        history = list(request.token_ids)
        for _ in range(number):
            self.drafted += 1
            wrong = self.mistakes >> (self.drafted % 16) & 1
            history.append((next_token(history, request.seed) + wrong) % VOCAB_SIZE)
        return history[len(request.token_ids) :]


def one_step(pieces: Sequence[tuple[Request, int]], cache: KVCache, sampler: SamplerTable) -> StepBatch:
    """A batch as the engine makes it: the next tokens of requests that have rows, all sampled.

    Args:
        pieces: requests and how many tokens each computes, to its end.
    """
    chunks = [Chunk(request, len(request.token_ids) - num_tokens, num_tokens, True) for request, num_tokens in pieces]
    layout = lay_out(np.empty(0, np.int32), np.empty(0, np.int32), chunks, cache)
    tokens = [token for request, start, *_ in chunks for token in request.token_ids[start:]]
    return StepBatch(
        np.array(tokens, np.int32),
        *layout[1:],
        logit_rows=layout.query_start[1:] - 1,
        sampling=sampler.gather(layout.rows, layout.context_lens),
        top_logprobs=any(request.params.logprobs for request, _ in pieces),
    )


CORPUS = [
    "Once upon a time, there was a loom. It wove cloth, and it wove words.",
    "Привет, мир! 你好,世界。 Ça va? 👩‍🚀 naïve café",
    "def step(tokens): return [token + 1 for token in tokens]",
]


def byte_level_tokenizer() -> tokenizers.Tokenizer:
    """A small byte-level BPE tokenizer, as GPT-2's: <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback_tokenizer() -> tokenizers.Tokenizer:
    """A small tokenizer in the manner of Llama 2: spaces as U+2581, one in front, rare characters as bytes."""
    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyzOnc,.", "▁a", "▁t", "▁ti", "on"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for piece in [*(f"<0x{byte:02X}>" for byte in range(256)), *pieces]:
        vocab.setdefault(piece, len(vocab))
    merges = [("▁", "a"), ("▁", "t"), ("▁t", "i"), ("o", "n")]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def fake_artifact(
    path: Path, *, max_context: int = 128, generation: GenerationInfo | None = None, chat: bool = True
) -> Artifact:
    """An artifact of the byte-level tokenizer with no code in it, to be served by a FakeDevice."""
    tokenizer = byte_level_tokenizer()
    manifest = Manifest(
        warploom_version="",
        model=ModelInfo("test/fake", "LlamaForCausalLM", 0),
        config={},
        vocab_size=tokenizer.get_vocab_size(),
        max_context=max_context,
        tokenizer=TokenizerInfo(
            "tokenizer.json",
            chat_template="chat_template.jinja" if chat else None,
            eos_token="<|im_end|>",
            eos_token_ids=[EOS],
        ),
        generation=generation or GenerationInfo(),
        quantization="f32",
        targets={"cpu": TargetInfo("plan.cpu.json", KVInfo(1, 1, 1, 16, "f32", 128))},
    )
    with ArtifactWriter(path) as writer:
        writer.add_text("tokenizer.json", tokenizer.to_str())
        writer.add_text("plan.cpu.json", '{"entries": {}, "kernels": {}}')
        if chat:
            writer.add_text("chat_template.jinja", CHAT_TEMPLATE)
        writer.finish(manifest)
    return load(path)
