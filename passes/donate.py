"""In-place updates: proves which cache writes may overwrite their operand and marks them `wl.in_place`.

The proof: the chain starts at a donated input, and every link is read by nobody after the write that replaces it.
A write without a proof carries the reason in `wl.refused`; `compile` accepts no such write in a model.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import Function
from warploom.ir.ops import scaled_cache
from warploom.ir.ops.latent_attention import latent_write
from warploom.ir.rewrite import entries, is_op, producer, users

IN_PLACE, REFUSED = "wl.in_place", "wl.refused"
WRITES = (*scaled_cache.WRITES, latent_write)


def donate(module: mlir.Module) -> None:
    """Mark every cache write of an entry as in place, or say why it is not."""
    for function in entries(module):
        donated = {function.inputs[name] for name in function.donated}
        for operation in function.ops:
            if is_op(operation, *WRITES):
                reason = refusal(operation, donated, function)
                if reason is None:
                    operation.attributes[IN_PLACE] = mlir.UnitAttr.get()
                else:
                    operation.attributes[REFUSED] = mlir.StringAttr.get(reason)


def refusal(operation: mlir.Operation, donated: set[mlir.Value], function: Function) -> str | None:
    """Why a write needs a copy of its operand, or None."""
    old = operation.operands[0]
    previous = producer(old, *WRITES)
    if old not in donated and (previous is None or IN_PLACE not in previous.attributes):
        return "the cache is neither a donated input nor the result of an in-place write"
    if any(old == value for value in function.results.values()):
        return "the cache before the write is a result of the function"
    late = [u for u in users(old) if u != operation and operation.is_before_in_block(u)]
    return f"{late[0].name} reads the cache as it was before the write" if late else None
