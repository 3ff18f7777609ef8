"""The order of passes. Every pass is verified; a callback sees each stage (for dumps and `inspect`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType

import mlir.ir as mlir

from warploom.errors import CompileError, IRError
from warploom.ir.target import Target
from warploom.ir.verify import verify
from warploom.passes.assign_layouts import assign_layouts
from warploom.passes.cse import cse
from warploom.passes.dce import dce
from warploom.passes.decompose import decompose
from warploom.passes.defer_norms import defer_norms
from warploom.passes.donate import donate
from warploom.passes.dump import Dump
from warploom.passes.extensions import extension_modules
from warploom.passes.fuse_heroes import fuse_heroes
from warploom.passes.fuse_loops import fuse_loops
from warploom.passes.hoist_weights import hoist_weights
from warploom.passes.keep_sums_wide import keep_sums_wide
from warploom.passes.merge_linears import merge_linears
from warploom.passes.order_inputs import order_inputs
from warploom.passes.quantization.scheme import Choice, Rules
from warploom.passes.quantize_activations import quantize_activations
from warploom.passes.quantize_heads import quantize_heads
from warploom.passes.quantize_weights import quantize_weights
from warploom.passes.require_kernels import require_kernels
from warploom.passes.scale_activations import scale_activations
from warploom.passes.scale_caches import scale_caches
from warploom.passes.simplify import simplify

Pass = Callable[[mlir.Module], None]


def pipeline(
    target: Target, quantization: Choice | Rules | None, scales: Mapping[str, object] | None = None
) -> list[Pass]:
    """All passes from the traced module to fused groups.

    Args:
        target: what to compile for.
        quantization: a scheme of `passes/quantization/`, or schemes by pattern of module paths; None: weights, and
            what they are multiplied with, stay as they are.
        scales: names of tensors of the checkpoint that scale activations, or the keys and values of a cache: measured,
            or its own.

    Raises:
        CompileError: unknown quantization.
    """
    rules = quantization if quantization is None or isinstance(quantization, Rules) else Rules(quantization)
    steps = [
        # What the program says, with less.
        simplify,
        cse,
        dce,
        # Numbers: where bf16 activations cost accuracy.
        keep_sums_wide,
        dce,
        # Weights: in the format asked for, side by side, in the layout that kernels read, computed ahead of time.
        *([partial(scale_activations, rules=rules, scales=scales)] if rules and scales else ()),
        *([partial(order_inputs, rules=rules), dce] if rules and "checkpoint" in rules.families else ()),
        *([partial(quantize_heads, rules=rules, target=target)] if rules and rules.quantize else ()),
        *([partial(quantize_weights, rules=rules)] if rules else ()),
        merge_linears,
        cse,
        partial(defer_norms, target=target),
        *([partial(quantize_activations, target=target, scales=scales or {})] if rules and rules.quantize else ()),
        *([partial(scale_caches, scales=scales)] if scales else ()),
        partial(assign_layouts, target=target),
        hoist_weights,
        dce,
        # Groups: one kernel each.
        donate,
        partial(fuse_heroes, target=target),
        *([partial(require_kernels, target=target)] if (rules and rules.quantize) or scales else ()),
        decompose,
        simplify,
        cse,
        dce,
        fuse_loops,
        dce,
    ]
    return _with_added(steps)


def _pass_of(module: ModuleType) -> Pass:
    name = module.__name__.rpartition(".")[2]
    step: Pass | None = getattr(module, name, None)
    if step is None:
        raise CompileError(f"{module.__file__} holds no pass", expected=f"a function {name}(module)")
    return step


def _with_added(steps: list[Pass]) -> list[Pass]:
    """With the passes of plugins: each a file that says in `AFTER` which pass it comes after."""
    for module in extension_modules():
        if not hasattr(module, "AFTER"):
            continue
        names = [name_of(other) for other in steps]
        if module.AFTER not in names:
            raise CompileError(
                f"{module.__name__} is to come after a pass that is not there",
                expected=", ".join(dict.fromkeys(names)),
                found=module.AFTER,
            )
        steps.insert(names.index(module.AFTER) + 1, _pass_of(module))
    return steps


def run(module: mlir.Module, passes: list[Pass]) -> Iterator[str]:
    """Run passes in order, verifying after each.

    Yields:
        The name of each pass when it is done; the module is edited in place.

    Raises:
        IRError: a pass made something malformed.
    """
    dump = Dump()
    dump.keep(0, "input", module)
    for number, step in enumerate(passes, 1):
        name = name_of(step)
        try:
            step(module)
            verify(module)
        except IRError as error:
            dump.keep(number, f"{name}.failed", module)
            what = f"after the pass {name}: {error.what}"
            raise IRError(what, expected=error.expected, found=error.found, fix=error.fix or dump.hint) from error
        dump.keep(number, name, module)
        yield name


def name_of(step: Pass) -> str:
    """The name of a pass, also when target or dtype are bound."""
    return step.func.__name__ if isinstance(step, partial) else step.__name__
