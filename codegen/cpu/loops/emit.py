"""From a program to a kernel: pick where vectors lie, then emit the loops of the root."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.isa import X86_64_V4
from warploom.codegen.cpu.loops.arithmetic import memory_element
from warploom.codegen.cpu.loops.coords import Extents, Irregular
from warploom.codegen.cpu.loops.element import Elements
from warploom.codegen.cpu.loops.maps import Mode, emit_map, modes
from warploom.codegen.cpu.loops.rows import emit_cumsum, emit_scatter, emit_sort, emit_top_k
from warploom.codegen.cpu.loops.schedule import schedule_of
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.loop_program import Program, flattened
from warploom.ir.types import DType


def emit_program(library: Library, name: str, program: Program) -> None:
    """Define kernel `name`; its operands are the inputs of the program, then its returned values."""
    flat = flattened(program)
    _emit(library, name, flat, _best_mode(flat))


def tiles_of(program: Program) -> str:
    """Number of tiles of that kernel, an expression over the program's dims."""
    flat = flattened(program)
    return schedule_of(flat, _best_mode(flat).columns).tiles


@lru_cache(maxsize=1024)
def _best_mode(program: Program) -> Mode:
    """The first mode that the index maps of the program allow, found by trying."""
    *vector_modes, scalar = modes(program)
    for mode in vector_modes:
        try:
            _emit(Library(X86_64_V4), "attempt", program, mode)
        except Irregular:
            continue
        return mode
    return scalar


def _emit(library: Library, name: str, program: Program, mode: Mode) -> None:
    inputs = {f"in{i}": memory_element(type_.dtype) for i, type_ in enumerate(program.inputs)}
    results = {f"out{i}": memory_element(type_.dtype) for i, type_ in enumerate(program.results)}
    with library.kernel(name, inputs | results, program.dims, location=str(program.root.op)) as k:

        def table(array: np.ndarray) -> Ptr:
            return library.table(_stored(array), memory_element(DType.of(array)))

        elements = Elements(program, Extents(k.dims), [k.operands[operand] for operand in inputs], table)
        outs = [k.operands[operand] for operand in results]
        schedule = schedule_of(program, mode.columns)
        match program.root.op:
            case "cumsum":
                emit_cumsum(k, elements, schedule, outs[0])
            case "sort":
                emit_sort(k, elements, schedule, outs[0], mode)
            case "top_k":
                emit_top_k(k, elements, schedule, dict(zip(program.returned, outs, strict=True)))
            case "scatter":
                emit_scatter(k, elements, schedule, outs[0], mode)
            case _:
                emit_map(k, elements, schedule, outs, mode)


def _stored(array: np.ndarray) -> np.ndarray:
    """The array as numpy knows it: narrow floats as their bits, booleans as bytes."""
    if array.dtype.itemsize == 2:
        return array.view(np.int16)
    return array.view(np.int8) if array.dtype == np.bool_ else array
