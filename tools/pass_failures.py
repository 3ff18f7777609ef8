"""Which promises of a pass a program breaks. `tests/property` has all properties; these need no more than a program."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import WarploomError
from warploom.ir.context import parse, print_module
from warploom.ir.function import public_functions
from warploom.ir.verify import PREPARE, verify
from warploom.passes.pipeline import Pass
from warploom.tools.execution import Workload, interpret
from warploom.tools.random_inputs import checkpoint_tensors, random_inputs, usual_dims

PROPERTIES = ("verify", "text", "idempotent", "meaning")
CLOSE = 1e-3  # of the largest number of a result: what another order of sums may change


def pass_failures(step: Pass, text: str) -> set[str]:
    """Return the properties that do not hold for a pass on a program; a pass that raises breaks `verify`."""
    before, after = parse(text), parse(text)
    try:
        step(after)
        verify(after)
    except Exception:  # whatever it raises
        return {"verify"}
    found, printed = set(), print_module(after)
    if print_module(parse(printed)) != printed:
        found.add("text")
    again = parse(printed)
    step(again)
    if print_module(again) != printed:
        found.add("idempotent")
    if not _means_the_same(before, after):
        found.add("meaning")
    return found


def _means_the_same(before: mlir.Module, after: mlir.Module) -> bool:
    load = checkpoint_tensors(before, 0)
    for name, function in public_functions(before).items():
        if name == PREPARE:
            continue
        try:
            work = Workload(name, random_inputs(before, function, usual_dims(function, {}), 0), load)
            wanted = interpret(before, work)
        except WarploomError:  # a program that does not run has no meaning to keep
            continue
        found = interpret(after, work)
        if wanted.keys() != found.keys() or not all(_close(found[key], wanted[key]) for key in wanted):
            return False
    return True


def _close(found: np.ndarray, wanted: np.ndarray) -> bool:
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if a.shape != b.shape:
        return False
    bound = CLOSE * float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    return np.allclose(a, b, rtol=0, atol=bound, equal_nan=True)
