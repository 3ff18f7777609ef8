"""The CPU device: the artifact's native code for this machine, a pool of worker threads, the KV cache in memory."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from warploom.errors import ArtifactError, EngineError
from warploom.runtime.artifact import Artifact
from warploom.runtime.compiled_limit import compiled_limit
from warploom.runtime.device import StepOutput
from warploom.runtime.machine import available_memory, cpu_features, num_cores
from warploom.runtime.manifest import KVInfo, Variant
from warploom.runtime.native import NativeEntry, anonymous_array
from warploom.runtime.plan import DimRange, Entry
from warploom.runtime.step_batch import StepBatch
from warploom.runtime.weights import numpy_dtype

_T = TypeVar("_T")
_ENTRIES = ("step", "sample", "logprobs")
_DEFAULT_MAX_TOKENS = 512
_DEFAULT_MAX_SEQS = 16
_CHEAP_TOKENS = 16  # with weights of f32; with int8, these take three times as long as one
_ROWS = 128  # of logits in one step, where prompts want some beside the sequences


def select_variant(variants: list[Variant], features: frozenset[str]) -> Variant:
    """Return the first variant (they are ordered, the most demanding first) that a CPU with `features` can run.

    Raises:
        ArtifactError: it can run none; says what each needs that the CPU lacks.
    """
    for variant in variants:
        if features.issuperset(variant.features):
            return variant
    lacks = [f"{one.isa} needs {', '.join(sorted(set(one.features) - features))}" for one in variants]
    raise ArtifactError(
        "The artifact has no code that this CPU can run",
        expected="a CPU with the features of one of the artifact's variants",
        found="; ".join(lacks) or "an artifact without variants",
        fix="run it on a newer CPU (x86-64-v3 is the least that warploom compiles for)",
    )


class CpuDevice:
    """Runs steps on this machine's cores, in a thread of its own. Any thread may use it, one at a time.

    Args:
        threads: worker threads; None: one per core that this process may use.
        kv_bytes: memory of the KV cache, taken as it fills; None: `max_seqs` full contexts, but at most a
            quarter of the free memory.
        max_tokens, max_seqs: most tokens and sequences of a step; None: 512 and 16, or what was compiled if less.

    Attributes:
        isa: the variant chosen. threads: its workers.

    Raises:
        ArtifactError: the artifact has no code for this CPU, or its parts do not fit together.
        EngineError: the limits are not possible.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int | None = None,
        kv_bytes: int | None = None,
        max_tokens: int | None = None,
        max_seqs: int | None = None,
    ) -> None:
        manifest, target = artifact.manifest, artifact.target("cpu")
        variant = select_variant(target.variants, cpu_features())
        entries = _entries(artifact)
        dims = entries["step"].dims
        self.isa, self.threads = variant.isa, num_cores() if threads is None else threads
        self.max_tokens = compiled_limit("max_num_batched_tokens", max_tokens, _DEFAULT_MAX_TOKENS, dims["T"])
        self.max_seqs = compiled_limit("max_num_seqs", max_seqs, min(_DEFAULT_MAX_SEQS, self.max_tokens), dims["S"])
        self.max_rows = min(max(self.max_seqs, _ROWS), dims["R"].max)
        self.cheap_tokens = _CHEAP_TOKENS
        self.page_size = target.kv.page_size
        full = self.max_seqs * target.kv.pages(manifest.max_context)
        self.num_pages = _num_pages(target.kv, kv_bytes, full, dims["C"])
        if self.max_seqs > self.max_tokens:
            raise EngineError(
                "A step must have a token for each sequence",
                expected=f"max_num_seqs of at most max_num_batched_tokens, {self.max_tokens}",
                found=str(self.max_seqs),
            )
        library = _open_library(artifact, variant)
        pool = _create_pool(library, self.threads, target.scratch_bytes)
        self._destroy_pool = weakref.finalize(self, library.wl_pool_destroy, pool)
        limits = {"T": self.max_tokens, "S": self.max_seqs, "R": self.max_rows, "C": self.num_pages}
        self._step, self._sample, self._logprobs = (
            NativeEntry(name, entries[name], library, pool, artifact.params, limits) for name in _ENTRIES
        )
        self._kv = _kv_cache(target.kv, self.num_pages)
        self._min_rows = dims["R"].min
        self._last_tokens = np.zeros(1, np.int32)
        self._stepper = ThreadPoolExecutor(1, "warploom-step")

    def execute(self, batch: StepBatch) -> StepOutput:
        """Run one step and sample; see `Device`. EngineError if a native call fails."""
        return self.result(self.launch(batch))

    def launch(self, batch: StepBatch, token_sources: NDArray[np.int32] | None = None) -> Future[StepOutput]:
        """Start one step; see `Device`. EngineError if the device is closed."""
        return self.sample(self.forward(batch, token_sources), batch)

    def forward(self, batch: StepBatch, token_sources: NDArray[np.int32] | None = None) -> Future[NDArray[np.float32]]:
        """Start the first part of a step; see `Device`. EngineError if the device is closed."""
        return self._submit(self._run_step, batch, token_sources)

    def sample(self, forwarded: Future[NDArray[np.float32]], batch: StepBatch) -> Future[StepOutput]:
        """Start the second part of a step; see `Device`. EngineError if the device is closed."""
        return self._submit(self._run_sample, forwarded, batch)

    def result(self, ticket: Future[StepOutput]) -> StepOutput:
        """Wait for a step; see `Device`. EngineError if a native call failed."""
        return ticket.result()

    def logits(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step and return the logits of the batch's `logit_rows`, [R, vocab_size]; nothing is sampled."""
        return self._submit(lambda: self._run_step(batch, None).copy()).result()

    def close(self) -> None:
        """Stop the worker threads; a second call does nothing."""
        self._stepper.shutdown()
        self._destroy_pool()

    def _submit(self, work: Callable[..., _T], *args: Any) -> Future[_T]:
        try:
            return self._stepper.submit(work, *args)
        except RuntimeError as error:
            raise EngineError("The device is closed", fix="open the artifact again") from error

    def _run_sample(self, forwarded: Future[NDArray[np.float32]], batch: StepBatch) -> StepOutput:
        logits = forwarded.result()
        if batch.sampling is None:
            return _NO_TOKENS
        dims = {
            "R": len(logits),
            "H": batch.sampling.penalty_tokens.shape[1],
            "B": batch.sampling.bias_tokens.shape[1],
            "M": batch.sampling.banned_bits.shape[1],
        }
        sampled = self._sample({"logits": logits, **batch.sampling._asdict()}, dims)
        top = self._logprobs({"logits": logits}, dims) if batch.top_logprobs else None
        self._last_tokens = sampled["tokens"].copy()
        return StepOutput(
            tokens=self._last_tokens,
            logprobs=sampled["logprobs"].copy(),
            top_tokens=top["top_tokens"].copy() if top else None,
            top_logprobs=top["top_logprobs"].copy() if top else None,
        )

    def _run_step(self, batch: StepBatch, token_sources: NDArray[np.int32] | None) -> NDArray[np.float32]:
        """Call `@step`; the logits [R, vocab_size] stay in its arena until the next call."""
        if token_sources is not None:
            fed = np.where(token_sources < 0, batch.token_ids, self._last_tokens.take(token_sources, mode="clip"))
            batch = batch._replace(token_ids=fed)
        num_rows = len(batch.logit_rows)
        rows = batch.logit_rows if num_rows >= self._min_rows else np.zeros(self._min_rows, np.int32)
        inputs = {
            "token_ids": batch.token_ids,
            "positions": batch.positions,
            "slots": batch.slots,
            "page_table": batch.page_table,
            "query_start": batch.query_start,
            "context_lens": batch.context_lens,
            "logit_rows": rows,
            "kv": self._kv,
        }
        num_seqs, num_pages = batch.page_table.shape
        dims = {
            "T": len(batch.token_ids), "S": num_seqs, "R": len(rows), "P": num_pages, "C": self.num_pages,
        }  # fmt: skip
        return self._step(inputs, dims)["logits"][:num_rows]


_NO_TOKENS = StepOutput(np.empty(0, np.int32), np.empty(0, np.float32), None, None)


def _entries(artifact: Artifact) -> dict[str, Entry]:
    entries = artifact.plan("cpu").entries
    missing = [name for name in _ENTRIES if name not in entries]
    if missing:
        raise ArtifactError(
            f"The plan of {artifact.path} lacks the entry {missing[0]!r}",
            expected=", ".join(_ENTRIES),
            found=", ".join(entries) or "no entries",
            fix="compile the model again",
        )
    return entries


def _num_pages(kv: KVInfo, kv_bytes: int | None, full: int, compiled: DimRange) -> int:
    """Return how many pages the KV cache gets; `full` is the most that can ever be used."""
    budget = available_memory() // 4 if kv_bytes is None else kv_bytes
    num_pages = min(budget // kv.bytes_per_page, full, compiled.max)
    if num_pages < max(1, compiled.min):
        raise EngineError(
            "The KV cache has too little memory",
            expected=f"at least {max(1, compiled.min)} pages of {kv.bytes_per_page} bytes",
            found=f"{budget} bytes",
            fix="give it more with kv_cache_bytes, or free memory",
        )
    return num_pages - num_pages % compiled.multiple_of


def _kv_cache(kv: KVInfo, num_pages: int) -> NDArray[Any]:
    dtype = numpy_dtype(kv.dtype)
    page = [kv.tensors, kv.num_kv_heads, kv.block]
    cache = anonymous_array([kv.num_layers, num_pages, *page], dtype)
    if cache.nbytes != num_pages * kv.bytes_per_page:
        raise ArtifactError(
            "The manifest's KV cache does not add up",
            expected=f"bytes_per_page {cache.nbytes // num_pages}",
            found=str(kv.bytes_per_page),
            fix="compile the model again",
        )
    return cache


def _open_library(artifact: Artifact, variant: Variant) -> ctypes.CDLL:
    path = artifact.path.absolute() / variant.file
    try:
        library = ctypes.CDLL(str(path))
        library.wl_pool_create.restype = ctypes.c_void_p
        library.wl_pool_create.argtypes = [ctypes.c_int, ctypes.c_int64]
        library.wl_pool_destroy.restype = None
        library.wl_pool_destroy.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError) as error:
        raise ArtifactError(
            f"The native code {path} cannot be loaded", found=str(error), fix="compile the model again"
        ) from error
    return library


def _create_pool(library: ctypes.CDLL, threads: int, scratch_bytes: int) -> int:
    if not 1 <= threads <= 1024:
        raise EngineError("The number of threads is not possible", expected="1..1024", found=str(threads))
    pool: int | None = library.wl_pool_create(threads, scratch_bytes)
    if not pool:
        raise EngineError("The worker threads cannot be started", found=f"{threads} threads")
    return pool
