"""An artifact's program on one GPU: kernels, weights, scratch and cache in place, entries ready to be enqueued."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Literal

from warploom.errors import ArtifactError
from warploom.runtime.artifact import Artifact
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.held import HeldAtOnce
from warploom.runtime.cuda.launch import CudaEntry
from warploom.runtime.cuda.limits import CacheBudget, num_cache_pages, scratch_bytes
from warploom.runtime.cuda.memory import DeviceMemory
from warploom.runtime.cuda.modules import Modules
from warploom.runtime.cuda.places import Arenas, place_buffers
from warploom.runtime.cuda.replacements import kernels_of
from warploom.runtime.cuda.results import DeviceArray
from warploom.runtime.cuda.staging import InputBlock
from warploom.runtime.cuda.weights import load_weights
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import Buffer, Entry, Plan
from warploom.runtime.weights import numpy_dtype

FEED, STEP, SAMPLE, LOGPROBS = ENTRIES = ("feed", "step", "sample", "logprobs")
# What an entry reads where another left it: (entry, its input) -> (other entry, its result).
_HANDED_ON = {
    (SAMPLE, "logits"): (STEP, "logits"),
    (LOGPROBS, "logits"): (STEP, "logits"),
    (FEED, "tokens"): (SAMPLE, "tokens"),
}


class Program:
    """All entries, bound.

    Args:
        stream: everything is enqueued on it.
        form: of the kernels to load.
        limits: the largest dims; C, the pages of the cache, is filled in here.
        resources: what is made here and has to be given back is put on it.
        lap: called with the name of each stage of loading when it is done.

    Attributes:
        inputs: what each step brings along.
        cache: address and bytes of the KV cache.

    Raises:
        ArtifactError: the plan lacks an entry, or its parts do not fit together.
        DeviceError: not enough memory, or the driver refuses a kernel.
    """

    def __init__(
        self,
        driver: Driver,
        stream: Any,
        artifact: Artifact,
        target: str,
        form: Literal["cubin", "ptx"],
        limits: dict[str, int],
        budget: CacheBudget,
        resources: ExitStack,
        lap: Callable[[str], None],
    ) -> None:
        self.plan = artifact.plan(target)
        self._driver, self._stream, self._limits = driver, stream, limits
        entries = named_entries(artifact, self.plan)
        multiprocessors = driver.gpu.num_multiprocessors
        kernels = {name for entry in entries.values() for name in kernels_of(entry, multiprocessors)}
        modules = Modules(driver, artifact.path, self.plan.kernels, kernels, form)
        resources.callback(modules.unload)
        self._functions = modules.functions
        held = HeldAtOnce(driver, stream, self.plan.kernels, modules.functions)
        entries = {name: held.of(entry) for name, entry in entries.items()}
        lap("kernels")
        self.memory = DeviceMemory(driver)
        resources.callback(self.memory.free)
        self._params = load_weights(driver, self.memory, artifact, self.plan)
        lap("weights")
        arenas = {name: self._take_arenas(name, entry) for name, entry in entries.items()}
        self.inputs = InputBlock(driver, self.memory, stream, _moving_inputs(entries), limits)
        resources.callback(self.inputs.close)
        kv, compiled = artifact.target(target).kv, entries[STEP].dims["C"]
        limits["C"] = num_cache_pages(driver, self.memory, kv, compiled, limits["C"], budget)
        cache_bytes = limits["C"] * kv.bytes_per_page
        self.cache = self.memory.take_zeroed("the KV cache", cache_bytes), cache_bytes
        driver.call("cuCtxSynchronize")
        lap("memory")
        self.entries: dict[str, CudaEntry] = {}
        for name in (STEP, SAMPLE, LOGPROBS, FEED):  # each after those whose results it reads
            self.entries[name] = self._bind(name, entries[name], arenas[name])
        lap("launches")

    def enqueue(
        self, names: Iterable[str], dims: Mapping[str, int], after_each: Callable[[], None] | None = None
    ) -> None:
        """Enqueue entries, in order, on inputs that have been uploaded in the layout of `dims`.

        Args:
            after_each: called after every launch.
        """
        inputs = self.inputs.addresses(self.inputs.layout(dims))
        for name in names:
            entry = self.entries[name]
            entry.move(inputs)
            entry.resolve(dims)
            entry.enqueue(after_each)

    def result(self, entry: str, name: str) -> DeviceArray:
        """Return where a result [R, ...] of an entry is; ArtifactError if there is none of that name."""
        for buffer in self.plan.entries[entry].buffers:
            if buffer.kind == "result" and buffer.name == name:
                row_shape = tuple(evaluate(extent, self._limits) for extent in buffer.shape[1:])
                place = self.entries[entry].places[name]
                return DeviceArray(name, place.offset, numpy_dtype(buffer.dtype), self._limits["R"], row_shape)
        raise ArtifactError(f"The plan's entry {entry} has no result {name!r}", fix="compile the model again")

    def _take_arenas(self, name: str, entry: Entry) -> Arenas:
        scratch = self.memory.take(f"scratch of @{name}", scratch_bytes(name, entry, self._limits))
        zeroed = self.memory.take_zeroed(f"counters of @{name}", evaluate(entry.zeroed_bytes, self._limits))
        return Arenas(scratch, zeroed)

    def _bind(self, name: str, entry: Entry, arenas: Arenas) -> CudaEntry:
        handed_on = {
            given: self.result(source, result).address
            for (reader, given), (source, result) in _HANDED_ON.items()
            if reader == name
        }
        fixed = {**self._params, **handed_on, "kv": self.cache[0]}
        places = place_buffers(entry, self._limits, fixed, arenas)
        kernels, functions = self.plan.kernels, self._functions
        return CudaEntry(self._driver, self._stream, entry, kernels, functions, places, self._limits, self.memory)


def named_entries(artifact: Artifact, plan: Plan) -> dict[str, Entry]:
    """Return the entries that serving needs; ArtifactError if one is missing."""
    missing = [name for name in ENTRIES if name not in plan.entries]
    if missing:
        raise ArtifactError(
            f"The CUDA plan of {artifact.path} lacks the entry {missing[0]!r}",
            expected=", ".join(ENTRIES),
            found=", ".join(plan.entries) or "no entries",
            fix="compile the model again",
        )
    return {name: plan.entries[name] for name in ENTRIES}


def _moving_inputs(entries: Mapping[str, Entry]) -> list[Buffer]:
    """The inputs that the host gives in every step, each once; those of a step's graph before those of `@sample`."""
    found: dict[str, Buffer] = {}
    for name in (STEP, FEED, SAMPLE, LOGPROBS):
        for buffer in entries[name].buffers:
            if buffer.kind == "input" and buffer.name != "kv" and (name, buffer.name) not in _HANDED_ON:
                found.setdefault(buffer.name, buffer)
    return list(found.values())
