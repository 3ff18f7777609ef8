"""A plan whose steps of one token run as one kernel where that is legal and pays; the launches stay for other GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import prod

import msgspec

from warploom.codegen.cuda.architecture import H100_MULTIPROCESSORS, CudaTarget
from warploom.codegen.cuda.kernel import CudaKernelSpec
from warploom.codegen.cuda.persistent.chain import longest_chain
from warploom.codegen.cuda.persistent.flow import Flow, Read, unordered
from warploom.codegen.cuda.persistent.phases import Attention, Gemv, Phase, phase_of
from warploom.codegen.cuda.persistent.spec import PersistentSpec
from warploom.codegen.cuda.persistent.split import split_of
from warploom.ir.types import DType
from warploom.runtime.expr import evaluate, names
from warploom.runtime.plan import Buffer, Entry, Guard, Launch, Replacement

MULTIPROCESSORS = {90: H100_MULTIPROCESSORS}  # by capability, of the GPUs that this was measured on
SHORTEST = 20  # launches that are worth one that starts later, as it cannot overlap with the one before it
ONE_TOKEN = Guard("max(T, S)", 1, 1)

Kernels = Mapping[str, CudaKernelSpec]


class _NoChainError(Exception):
    """Why the launches stay."""


@dataclass(frozen=True)
class _Chain:
    """Launches that repeat.

    Attributes:
        places: of each repetition, in the entry's launches. operands: of each, by the names of the kernel's.
        others: launches of a step of one token that are not in it, by place.
    """

    entry: Entry
    phases: tuple[Phase, ...]
    places: tuple[tuple[int, ...], ...]
    operands: tuple[tuple[Mapping[str, str], ...], ...]
    others: Mapping[int, Launch]

    @property
    def made(self) -> dict[str, tuple[int, int]]:
        """What is made: name -> (repetition, phase)."""
        return {
            phases[p][phase.roles.out]: (r, p)
            for r, phases in enumerate(self.operands)
            for p, phase in enumerate(self.phases)
        }


def replace_by_one(entry: Entry, kernels: Kernels, target: CudaTarget) -> tuple[Entry, PersistentSpec] | str:
    """`@step` with a kernel in place of the launches of a step of one token that repeat, or why it stays as it is.

    Args:
        kernels: by name, of all launches.
    """
    if target.deterministic:
        return "numbers must not depend on the number of tokens"
    if target.capability not in MULTIPROCESSORS:
        return f"how many blocks fit {target.arch} at once has not been measured"
    try:
        chain = _find(entry, kernels)
        flow, initials = _reads(chain)
        results = _results(chain)
        _check_order(chain, [*initials.values(), *(chain.operands[-1][p][chain.phases[p].roles.out] for p in results)])
        if (why := unordered(flow)) is not None:
            raise _NoChainError(why)
        split = split_of(chain.phases, flow)
        if isinstance(split, str):
            raise _NoChainError(split)
        if results != (len(chain.phases) - 1,):
            raise _NoChainError("not only the residual stream is read after the layers")
        spec = PersistentSpec(chain.phases, split, len(chain.places))
        return _replaced(chain, spec, initials, MULTIPROCESSORS[target.capability]), spec
    except _NoChainError as why:
        return str(why)


def _find(entry: Entry, kernels: Kernels) -> _Chain:
    dims = {name: known.min for name, known in entry.dims.items()} | dict.fromkeys("TSR", 1)
    active = {
        place: launch
        for place, launch in enumerate(entry.launches)
        if launch.when is None or launch.when.min <= evaluate(launch.when.value, dims) <= launch.when.max
    }
    phases = {name: phase_of(kernels[name]) for name in {launch.kernel for launch in active.values()}}
    able = [place for place, launch in active.items() if not isinstance(phases[launch.kernel], str)]
    found = longest_chain([active[place].kernel for place in able])
    if found is None or found.length < SHORTEST:
        reasons = sorted({why for why in phases.values() if isinstance(why, str)})
        raise _NoChainError(f"fewer than {SHORTEST} launches repeat that can be phases; {'; '.join(reasons)}")
    starts = range(found.first, found.first + found.length, found.period)
    places = tuple(tuple(able[start : start + found.period]) for start in starts)
    one = tuple(phase for place in places[0] if not isinstance(phase := phases[active[place].kernel], str))
    for launch in (active[place] for row in places for place in row):
        if launch.when is not None and not names(launch.when.value) <= {"T", "S"}:
            raise _NoChainError(f"{launch.kernel} runs for some {launch.when.value} only")
    if sum(isinstance(phase, Attention) for phase in one) > 1:
        raise _NoChainError("more than one attention repeats")
    operands = tuple(tuple(_by_name(active[place], kernels) for place in row) for row in places)
    chained = {place for row in places for place in row}
    return _Chain(
        entry, one, places, operands, {place: launch for place, launch in active.items() if place not in chained}
    )


def _by_name(launch: Launch, kernels: Kernels) -> dict[str, str]:
    return dict(zip((operand.name for operand in kernels[launch.kernel].operands), launch.operands, strict=True))


def _reads(chain: _Chain) -> tuple[Flow, dict[int, str]]:
    """What each phase reads, and the buffers that the first repetition reads of one before it, by phase."""
    initials: dict[int, str] = {}
    flow: list[list[Read]] = []
    for p, phase in enumerate(chain.phases):
        whole, partial = phase.roles.whole, phase.roles.partial
        flow.append([_read(chain, p, name, name in whole, initials) for name in (*whole, *partial)])
        if isinstance(phase, Attention) and len(set(flow[-1])) > 1:
            raise _NoChainError("q, k and v are not one projection's")
    return flow, initials


def _read(chain: _Chain, p: int, name: str, whole: bool, initials: dict[int, str]) -> Read:
    """The one phase that makes an operand of phase p in all repetitions."""
    found = set()
    for r, row in enumerate(chain.operands):
        maker = chain.made.get(row[p][name])
        if maker is not None:
            found.add(Read(maker[1], r - maker[0], whole))
        elif r > 0:
            raise _NoChainError(f"{row[p][name]} is made by none of the launches that repeat")
    if len(found) != 1:
        raise _NoChainError(f"operand {name} of phase {p} is not the same in all repetitions")
    (read,) = found
    first = chain.operands[0][p][name]
    if first not in chain.made and (read.back != 1 or initials.setdefault(read.phase, first) != first):
        raise _NoChainError(f"the first repetition reads {first}, which the others have no such thing for")
    return read


def _results(chain: _Chain) -> tuple[int, ...]:
    """The phases whose last value is read after the chain. What else is read of it is in the way."""
    last, end = len(chain.places) - 1, chain.places[-1][-1]
    made, found = chain.made, set()
    returned = {buffer.name for buffer in chain.entry.buffers if buffer.kind == "result"}
    readers = [(place, name) for place, launch in chain.others.items() for name in launch.operands]
    for place, name in [*readers, *((len(chain.entry.launches), name) for name in returned)]:
        if name not in made:
            continue
        repetition, phase = made[name]
        if repetition != last or place < end or not isinstance(chain.phases[phase], Gemv):
            raise _NoChainError(f"{name}, which is made in repetition {repetition}, is read elsewhere")
        found.add(phase)
    return tuple(sorted(found))


def _check_order(chain: _Chain, boundary: Sequence[str]) -> None:
    """The launches between the first and the last of the chain come before all of it: nothing may depend on that.

    Args:
        boundary: what the chain reads of others, and others of it.
    """
    spans = [_span(chain.entry, name) for name in boundary]
    begin, end = chain.places[0][0], chain.places[-1][-1]
    for place, launch in chain.others.items():
        if not begin < place < end:
            continue
        for name in launch.operands:
            span = _span(chain.entry, name)
            if name in chain.made or any(_overlap(span, other) for other in spans):
                raise _NoChainError(f"{launch.kernel} stands between launches that repeat, and touches {name}")


def _span(entry: Entry, name: str) -> tuple[str, int, int]:
    """The arena that a buffer is in, or its own name, and its bytes there at the largest dims."""
    buffer = next(b for b in entry.buffers if b.name == name)
    dims = {dim: known.max for dim, known in entry.dims.items()}
    if buffer.aliases is not None:
        return _span(entry, buffer.aliases)
    if buffer.offset is None:
        return buffer.name, 0, 1
    begin = evaluate(buffer.offset, dims)
    size = prod(evaluate(extent, dims) for extent in buffer.shape) * DType(buffer.dtype).numpy.itemsize
    return "zeroed" if buffer.kind == "zeroed" else "arena", begin, begin + size


def _overlap(left: tuple[str, int, int], right: tuple[str, int, int]) -> bool:
    return left[0] == right[0] and left[1] < right[2] and right[1] < left[2]


def _replaced(chain: _Chain, spec: PersistentSpec, initials: Mapping[int, str], multiprocessors: int) -> Entry:
    entry = chain.entry
    exchange = _exchange(entry, spec)
    launch = Launch(
        kernel=spec.name,
        operands=[
            *_table(chain, spec),
            *initials.values(),
            *_constants(chain, spec),
            chain.operands[-1][-1][chain.phases[-1].roles.out],
            exchange.name,
        ],
        dims=list(spec.dims),
        tiles=spec.grid[0],
        location=_common_path([entry.launches[place].location for row in chain.places for place in row]),
        grid=list(spec.grid),
        when=ONE_TOKEN,
    )
    places = sorted(place for row in chain.places for place in row)
    return msgspec.structs.replace(
        entry,
        buffers=[*entry.buffers, exchange],
        zeroed_bytes=f"{exchange.offset} + {4 * spec.exchange_words}",
        replacements=[*entry.replacements, Replacement(launch, places, multiprocessors)],
    )


def _common_path(paths: Sequence[str]) -> str:
    """The module that all are in: `model.layers`."""
    levels = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def _table(chain: _Chain, spec: PersistentSpec) -> Iterator[str]:
    buffers = {buffer.name: buffer for buffer in chain.entry.buffers}
    for row in chain.operands:
        for phase, name in spec.columns:
            buffer = buffers[row[phase][name]]
            if buffer.kind != "param" and "kv" not in (buffer.name, buffer.aliases):
                raise _NoChainError(f"{buffer.name} is neither a parameter nor the cache")
            yield buffer.name


def _constants(chain: _Chain, spec: PersistentSpec) -> Iterator[str]:
    for name in spec.constants:
        phase = next(p for p, one in enumerate(chain.phases) if isinstance(one, Attention))
        found = {row[phase][name] for row in chain.operands}
        if len(found) > 1 or found & chain.made.keys():
            raise _NoChainError(f"{name} is not the same in all repetitions")
        yield found.pop()


def _exchange(entry: Entry, spec: PersistentSpec) -> Buffer:
    """What clusters hand on."""
    offset = f"(({entry.zeroed_bytes}) + 63) // 64 * 64"
    return Buffer(f"%{spec.name}.exchange", "zeroed", "i32", [spec.exchange_words], offset)
