"""The CUDA device: an artifact's program on one GPU, as steps.

A step is: one copy of its inputs, then `@feed` (puts tokens that only the GPU knows yet into `token_ids`), `@step`,
`@sample` and, where asked for, `@logprobs`, all on one stream; results are copied back on another. A decode step, with
drafts or without, is a captured graph from `@feed` to `@sample`. `launch` returns when all that is enqueued, so the
next step can be launched before this one's tokens are known: its `token_sources` say which of its tokens are rows of
this one's result.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.artifact import Artifact
from warploom.runtime.cuda.architecture import choose_target
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.graphs import GraphKey, Graphs
from warploom.runtime.cuda.limits import CHEAP_TOKENS, DEFAULT_MEMORY_FRACTION, CacheBudget, step_limits
from warploom.runtime.cuda.program import FEED, LOGPROBS, SAMPLE, STEP, Program, named_entries
from warploom.runtime.cuda.results import Pending, ResultRing
from warploom.runtime.cuda.step_shape import (
    StepShape,
    bucket_dims,
    make_buckets,
    padded_starts,
    sampling_dims,
    shape_step,
)
from warploom.runtime.device import StepOutput
from warploom.runtime.step_batch import StepBatch

I32 = NDArray[np.int32]


class Ticket(NamedTuple):
    """A step under way; `pending` holds no rows if it samples nothing."""

    pending: Pending


class CudaDevice:
    """Runs steps on one GPU. Any thread may use it, one at a time.

    Args:
        ordinal: which GPU, as the driver counts them.
        max_tokens, max_seqs: most tokens and sequences of a step; None: 8192 and 256, or what was compiled if less.
        num_drafts: most drafts of a sequence in a step; its rows of logits are enough for those.
        kv_bytes: memory of the KV cache; None: what is left of `memory_fraction` of the GPU's memory (None: 0.92),
            but no more than `max_seqs` full contexts.
        graphs: whether decode steps are captured; without, every kernel is launched by itself.
        api: in place of `cuda.bindings.driver`.

    Attributes:
        gpu: what it runs on. choice: which of the artifact's targets, and why. target: its name.
        driver, stream: where its work is enqueued.
        program: kernels, weights and memory.
        load_seconds: how long the stages of loading took.

    Raises:
        ArtifactError: the artifact's parts do not fit together.
        DeviceError: no GPU, driver or memory that does; see `Driver`, `choose_target` and `DeviceMemory`.
        EngineError: the limits are not possible.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        ordinal: int = 0,
        max_tokens: int | None = None,
        max_seqs: int | None = None,
        num_drafts: int = 0,
        kv_bytes: int | None = None,
        memory_fraction: float | None = None,
        graphs: bool = True,
        api: Any = None,
    ) -> None:
        self.load_seconds: dict[str, float] = {}
        self._lapped = time.perf_counter()
        self._resources = ExitStack()
        try:
            self._open_gpu(artifact, ordinal, api)
            entries = named_entries(artifact, artifact.plan(self.target))
            fraction = DEFAULT_MEMORY_FRACTION if memory_fraction is None else memory_fraction
            kv = artifact.target(self.target).kv
            pages = kv.pages(artifact.manifest.max_context)
            limits = step_limits(pages, entries, max_tokens, max_seqs, num_drafts)
            most_pages = limits["C"]
            self._load(artifact, limits, CacheBudget(kv_bytes, fraction))
            self.page_size, self.num_pages = kv.page_size, limits["C"]
            self.max_tokens, self.max_seqs, self.max_rows = limits["T"], most_pages // limits["P"], limits["R"]
            self.cheap_tokens = CHEAP_TOKENS
            self._min_rows = entries[STEP].dims["R"].min
            self._buckets = make_buckets(limits["S"], limits["P"]) if graphs else None
            self._capture_common()
        except BaseException:
            self.close()
            raise

    def execute(self, batch: StepBatch) -> StepOutput:
        """Run one step and sample; see `Device`. DeviceError if the GPU fails."""
        return self.result(self.launch(batch))

    def launch(self, batch: StepBatch, token_sources: I32 | None = None) -> Ticket:
        """Enqueue one step.

        Args:
            token_sources: [T]: which row of the result of the last step that sampled is the token, or -1: it is in
                `token_ids`. None: all of them are.

        Raises:
            EngineError: the batch is beyond the device's limits, or too many results are unread.
            DeviceError: the GPU or its driver fails.
        """
        self.driver.make_current()
        self._results.begin_step()
        shape = self.upload(batch, token_sources)
        self.enqueue(shape, _forward_names(shape, token_sources) + _sample_names(batch))
        return self._ticket(batch)

    def forward(self, batch: StepBatch, token_sources: I32 | None = None) -> None:
        """Enqueue the first part of a step; see `Device` and `launch`."""
        self.driver.make_current()
        self._results.begin_step()
        shape = self.upload(batch._replace(sampling=None), token_sources)
        self.enqueue(shape, _forward_names(shape, token_sources))

    def sample(self, forwarded: None, batch: StepBatch) -> Ticket:
        """Enqueue the second part of a step; see `Device`. Its inputs are copied after the first part has read its."""
        self.driver.make_current()
        if batch.sampling is not None:
            shape = self.upload(batch, None)
            self.program.enqueue(_sample_names(batch), shape.dims)
        return self._ticket(batch)

    def result(self, ticket: Ticket) -> StepOutput:
        """Wait for a step and return what it gave; once per ticket. DeviceError if the GPU has failed."""
        self.driver.make_current()
        read = self._results.read(ticket.pending)
        if not ticket.pending.entries:
            return _NO_TOKENS
        return StepOutput(read["tokens"], read["logprobs"], read.get("top_tokens"), read.get("top_logprobs"))

    def logits(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step and return the logits of the batch's `logit_rows`, [R, vocab_size]; nothing is sampled."""
        self.driver.make_current()
        self.enqueue(self.upload(batch, None)._replace(plain=False), [FEED, STEP])
        array = self.program.result(STEP, "logits")
        host = np.empty((len(batch.logit_rows), *array.row_shape), array.dtype)
        self.driver.call("cuStreamSynchronize", self.stream)
        if host.size:
            self.driver.call("cuMemcpyDtoH", host.ctypes.data, array.address, host.nbytes)
        return host

    def close(self) -> None:
        """Free everything on the GPU; a second call does nothing."""
        self._resources.close()

    def lap(self, stage: str) -> None:
        """Note that a stage of loading is done."""
        now = time.perf_counter()
        self.load_seconds[stage] = now - self._lapped
        self._lapped = now

    def upload(self, batch: StepBatch, token_sources: I32 | None) -> StepShape:
        """Enqueue the copy of a step's inputs; return the shape that they have been padded to."""
        shape = shape_step(batch, self._buckets, self._min_rows, self.num_pages)
        arrays = {**batch._asdict(), **(batch.sampling._asdict() if batch.sampling else {})}
        if token_sources is not None:
            arrays["token_sources"] = token_sources
        if shape.bucket is not None:
            arrays["query_start"] = padded_starts(batch.query_start, shape.dims["S"])
        self.program.inputs.upload(shape.dims, arrays)
        return shape

    def enqueue(self, shape: StepShape, names: list[str]) -> None:
        """Enqueue entries on uploaded inputs, the first of them as a graph in decode steps."""
        if shape.bucket is not None:
            captured = _PLAIN if shape.plain else _WITHOUT_SAMPLE
            self._graphs.launch(self._graph(GraphKey(*shape.bucket, captured)))
            names = names[len(captured) :]
        if names:
            self.program.enqueue(names, shape.dims)

    def _ticket(self, batch: StepBatch) -> Ticket:
        """Enqueue the copies of a step's results."""
        return Ticket(self._results.collect(tuple(_sample_names(batch)), len(batch.logit_rows)))

    def _open_gpu(self, artifact: Artifact, ordinal: int, api: Any) -> None:
        self.driver = driver = Driver(ordinal, api)
        self._resources.callback(driver.close)
        self.choice = choose_target(artifact.manifest.targets, driver.gpu)
        self.gpu, self.target = driver.gpu, self.choice.target
        self.stream = driver.call("cuStreamCreate", driver.api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._resources.callback(driver.release, "cuStreamDestroy", self.stream)
        self.lap("driver")

    def _load(self, artifact: Artifact, limits: dict[str, int], budget: CacheBudget) -> None:
        driver, stream, resources = self.driver, self.stream, self._resources
        self.program = Program(
            driver, stream, artifact, self.target, self.choice.form, limits, budget, resources, self.lap
        )
        results = {entry: [self.program.result(entry, name) for name in names] for entry, names in _RESULTS.items()}
        self._results = ResultRing(driver, stream, results)
        resources.callback(self._results.close)
        self._graphs = Graphs(driver, stream)
        resources.callback(self._graphs.close)
        resources.callback(driver.release, "cuCtxSynchronize")  # nothing runs while things are freed
        resources.callback(driver.release, "cuCtxSetCurrent", driver.context)  # first of all
        self.lap("staging")

    def _capture_common(self) -> None:
        """Capture the graphs of plain decode steps, the largest first; others when first needed."""
        if self._buckets is not None:
            for pages, rows in product(reversed(self._buckets.pages), reversed(self._buckets.rows)):
                self._graph(GraphKey(rows, pages, _PLAIN))
        self.driver.call("cuStreamSynchronize", self.stream)
        self.lap("graphs")

    def _graph(self, key: GraphKey) -> Any:
        """The graph of a decode step."""
        dims = {**bucket_dims(key.rows, key.pages), "C": self.num_pages, **sampling_dims(None)}
        return self._graphs.get(key, lambda: self.program.enqueue(key.entries, dims))


_NO_TOKENS = StepOutput(np.empty(0, np.int32), np.empty(0, np.float32), None, None)
_RESULTS = {SAMPLE: ("tokens", "logprobs"), LOGPROBS: ("top_tokens", "top_logprobs")}
_WITHOUT_SAMPLE = (FEED, STEP)
_PLAIN = (FEED, STEP, SAMPLE)


def _forward_names(shape: StepShape, token_sources: I32 | None) -> list[str]:
    """The entries of a step's first part."""
    return [FEED, STEP] if shape.bucket is not None or token_sources is not None else [STEP]


def _sample_names(batch: StepBatch) -> list[str]:
    """The entries of a step's second part."""
    if batch.sampling is None:
        return []
    return [SAMPLE, LOGPROBS] if batch.top_logprobs else [SAMPLE]
