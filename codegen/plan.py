"""From an entry of fused calls to its plan: buffers, launches, and memory. Target independent.

An entry holds `wl.param` ops, calls of fusion groups, and reshapes between them, which are views. Every value gets a
name of memory: an input, a param, a place in the arena, or, where a group updates one of its inputs in place
(`kv_write`), the memory of that input. That such an update is no copy has to be proven here: nobody may read the old
value afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import mlir.ir as mlir

from warploom.codegen.binding import Binding, Lowering, Slot
from warploom.codegen.memory_plan import Lifetime, MemoryPlan, plan_memory
from warploom.errors import CompileError
from warploom.ir.dims import DimLike, product
from warploom.ir.function import Function, path_of
from warploom.ir.op import op_of
from warploom.ir.ops.latent_attention import latent_write
from warploom.ir.ops.parameters import param
from warploom.ir.ops.scaled_cache import WRITES
from warploom.ir.ops.shape import reshape
from warploom.ir.rewrite import producer
from warploom.ir.types import TensorType, type_of
from warploom.runtime.expr import Expr, names
from warploom.runtime.plan import Buffer, BufferKind, DimRange, Entry, Launch

CALL = "func.call"


@dataclass(slots=True)
class _Memory:
    """One piece of memory: what it holds, and the calls (by position) between which it is in use."""

    name: str
    kind: BufferKind
    type: TensorType
    donated: bool = False
    first: int = 0
    last: int = 0

    @property
    def bytes(self) -> DimLike:
        return product(self.type.shape) * self.type.dtype.numpy.itemsize

    def buffer(self, offset: Expr | None = None) -> Buffer:
        return Buffer(self.name, self.kind, str(self.type.dtype), _shape(self.type), offset)


@dataclass(slots=True)
class _Draft:
    """An entry being planned: the memory of every value, and buffers that are windows or other names of memory."""

    function: Function
    groups: Mapping[str, Function]
    calls: list[mlir.Operation]
    memory_of: dict[mlir.Value, _Memory] = field(default_factory=dict)
    temps_of: dict[mlir.Operation, list[_Memory]] = field(default_factory=dict)
    aliases: dict[str, Buffer] = field(default_factory=dict)

    @property
    def memories(self) -> list[_Memory]:
        """Each piece of memory once, in order of its first value; then what only the kernels of one group see."""
        of_values = {id(memory): memory for memory in self.memory_of.values()}
        return [*of_values.values(), *(memory for temps in self.temps_of.values() for memory in temps)]


def build_entry(function: Function, groups: Mapping[str, Function], lowerings: Mapping[str, Lowering]) -> Entry:
    """Plan one entry.

    Args:
        function: the entry, fused.
        groups: the group functions by name.
        lowerings: the launches of each group, by the group's name.

    Raises:
        CompileError: an op is outside every group, an in-place update would lose a value that is still read, a donated
            input would be copied, or a name stands for two things.
    """
    draft = _Draft(function, groups, called(function))
    _place_inputs(draft)
    positions = {call: position for position, call in enumerate(draft.calls)}
    for operation in function.ops:
        if operation in positions:
            _place_results(draft, positions[operation], operation)
            _place_temps(draft, positions[operation], operation, lowerings[callee(operation)])
        elif op_of(operation) is reshape:
            draft.memory_of[operation.results[0]] = draft.memory_of[operation.operands[0]]
    _place_returned(draft)
    _check_names(draft)
    launches = [_launch(draft, call, b) for call in draft.calls for b in lowerings[callee(call)].bindings]
    arena, zeroed = _plan_arena(draft, "temp", "result"), _plan_arena(draft, "zeroed")
    offsets = arena.offsets | zeroed.offsets
    buffers = [memory.buffer(offsets.get(memory.name)) for memory in draft.memories]
    return Entry(
        dims={name: DimRange(known.min, known.max, known.multiple_of) for name, known in function.dims.items()},
        externals=[m.name for kind in ("input", "param") for m in draft.memories if m.kind == kind],
        buffers=[*buffers, *draft.aliases.values()],
        launches=launches,
        arena_bytes=arena.bytes,
        zeroed_bytes=zeroed.bytes,
    )


def called(function: Function) -> list[mlir.Operation]:
    """The calls of an entry, in order.

    Raises:
        CompileError: there is an op that is neither a call, nor a param, nor a view.
    """
    calls = [operation for operation in function.ops if op_of(operation) not in (param, reshape)]
    for operation in calls:
        if operation.name != CALL:
            raise CompileError(
                f"{operation.name} of @{function.name} ({path_of(operation)}) is in no fusion group",
                expected="only params and calls of groups",
                fix="run the target's pass pipeline before code generation",
            )
    return calls


def callee(call: mlir.Operation) -> str:
    """The name of the group that a call calls."""
    return str(call.attributes["callee"].value)


def updated_input(group: Function, result: int) -> int | None:
    """The group's input that result `result` is an update of, following cache writes; None if it is a new value."""
    value = group.terminator.operands[result]
    arguments = list(group.body.arguments)
    if value in arguments:
        return None
    while value not in arguments:
        if op_of(value.owner) not in (*WRITES, latent_write):
            return None
        value = value.owner.operands[0]
    return arguments.index(value)


def _place_inputs(draft: _Draft) -> None:
    donated = draft.function.donated
    for name, value in draft.function.inputs.items():
        draft.memory_of[value] = _Memory(name, "input", type_of(value), donated=name in donated)
    params: dict[str, _Memory] = {}
    for operation in draft.function.ops:
        if op_of(operation) is param and any(True for _ in operation.results[0].uses):
            name, value = operation.attributes["name"].value, operation.results[0]
            draft.memory_of[value] = params.setdefault(name, _Memory(name, "param", type_of(value)))


def _place_results(draft: _Draft, position: int, call: mlir.Operation) -> None:
    """Memory for what a call defines; and what it reads is in use until now."""
    for operand in call.operands:
        draft.memory_of[operand].last = position
    for index, value in enumerate(call.results):
        source = updated_input(draft.groups[callee(call)], index)
        if source is None:
            name = f"%{position}.{index}"  # % is in no name of an input, param or result
            memory = _Memory(name, "temp", type_of(value), donated=True, first=position, last=position)
        else:
            memory = draft.memory_of[call.operands[source]]
            _check_update(draft, call, call.operands[source])
        draft.memory_of[value] = memory


def _place_temps(draft: _Draft, position: int, call: mlir.Operation, lowering: Lowering) -> None:
    """Memory that only the kernels of one call use."""
    draft.temps_of[call] = [
        _Memory(f"%{position}.temp{i}", "zeroed" if temp.zeroed else "temp", temp.type, first=position, last=position)
        for i, temp in enumerate(lowering.temps)
    ]


def _check_update(draft: _Draft, call: mlir.Operation, old: mlir.Value) -> None:
    """Prove that `call` may write into the memory of `old`."""
    memory = draft.memory_of[old]
    while (view := producer(old, reshape)) is not None:
        old = view.operands[0]
    place = f"@{draft.function.name}: @{callee(call)} ({path_of(call)}) updates {memory.name} in place"
    if not memory.donated:
        raise CompileError(f"{place}, which is not donated", fix="mark the input as donated")
    for reader in _readers(old):
        if reader != call and not reader.is_before_in_block(call):
            raise CompileError(
                f"{place}, but {reader.name} ({path_of(reader)}) reads the old value later",
                expected="every read of the old value to come before the update",
                fix="let later reads use the updated value",
            )


def _readers(value: mlir.Value) -> Iterator[mlir.Operation]:
    """Who reads a value, directly or through a view."""
    for use in value.uses:
        reader = use.owner.operation
        if op_of(reader) is reshape:
            yield from _readers(reader.results[0])
        else:
            yield reader


def _place_returned(draft: _Draft) -> None:
    """Results live until the end; one that is no memory of its own becomes another name for what it is."""
    for name, value in draft.function.results.items():
        memory = draft.memory_of[value]
        if name in draft.function.donated and memory.name != name:
            raise CompileError(
                f"the result {name} of @{draft.function.name} is not its donated input, updated in place, but a copy",
                expected="kernels that write into it (kv_write in the target's key layout, latent_write)",
                found=f"{memory.name}, computed anew",
                fix="use a program that was traced for this target: others lay out keys differently",
            )
        if memory.kind == "temp":
            memory.name, memory.kind, memory.last = name, "result", len(draft.calls)
            memory.type = type_of(value)
            continue
        draft.aliases[f"result {name}"] = Buffer(
            name, "result", str(memory.type.dtype), _shape(type_of(value)), aliases=memory.name
        )


def _plan_arena(draft: _Draft, *kinds: BufferKind) -> MemoryPlan:
    """Offsets of all memory of some kinds."""
    return plan_memory(
        [Lifetime(m.name, m.bytes, m.first, m.last) for m in draft.memories if m.kind in kinds],
        {name: known.max for name, known in draft.function.dims.items()},
    )


def _check_names(draft: _Draft) -> None:
    owned = [memory.name for memory in draft.memories]
    taken = [alias.name for alias in draft.aliases.values() if alias.name != alias.aliases]
    repeated = sorted({name for name in [*owned, *taken] if [*owned, *taken].count(name) > 1})
    if repeated:
        raise CompileError(
            f"names of inputs, params and results of @{draft.function.name} are not unique",
            expected="only a donated input and its updated result to share a name",
            found=", ".join(repeated),
        )


def _launch(draft: _Draft, call: mlir.Operation, binding: Binding) -> Launch:
    guard = [] if binding.when is None else [binding.when.value]
    for expr in (*binding.dims, binding.tiles, *binding.grid, *guard, *(slot.offset for slot in binding.operands)):
        unknown = names(expr) - draft.function.dims.keys()
        if unknown:
            raise CompileError(
                f"kernel {binding.kernel} for @{callee(call)} speaks of dims that @{draft.function.name} lacks",
                expected=", ".join(draft.function.dims) or "no dims",
                found=", ".join(sorted(unknown)),
            )
    operands = [_operand(draft, call, slot) for slot in binding.operands]
    return Launch(
        binding.kernel,
        operands,
        list(binding.dims),
        binding.tiles,
        path_of(call),
        list(binding.grid),
        binding.when,
    )


def _operand(draft: _Draft, call: mlir.Operation, slot: Slot) -> str:
    """The name of the buffer that `slot` points to, a view where it has an offset."""
    if slot.side == "temp":
        memory = draft.temps_of[call][slot.index]
    else:
        memory = draft.memory_of[(call.operands if slot.side == "input" else call.results)[slot.index]]
    if slot.offset == 0:
        return memory.name
    name = f"{memory.name} + {slot.offset}"
    size = f"{memory.bytes} - ({slot.offset})"
    draft.aliases[name] = Buffer(name, "view", "u8", [size], offset=slot.offset, aliases=memory.name)
    return name


def _shape(type_: TensorType) -> list[Expr]:
    return [dim if isinstance(dim, int) else str(dim) for dim in type_.shape]
