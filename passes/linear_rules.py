"""Fusion rules of heroes that multiply or normalize: what their kernels absorb, before and after them."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.expert_patterns import find_mixture, find_product
from warploom.ir.op import op_of
from warploom.ir.ops.columns import take_columns
from warploom.ir.ops.elementwise import add, cast
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.quantize import quantize, quantize_static
from warploom.ir.ops.shape import reshape, slice_axis
from warploom.ir.patterns import bias_of, feeds_swiglu
from warploom.ir.rewrite import is_op, producer, users
from warploom.passes.outline import in_block_order
from warploom.passes.proposal import Proposal, take_slices


def alone(proposal: Proposal) -> Proposal:
    """Nothing but the hero."""
    return proposal


def and_cast(proposal: Proposal) -> Proposal:
    """The cast of its result, if that is all that reads it."""
    (hero,) = proposal.ops
    readers = users(hero.results[0])
    if len(readers) == 1 and is_op(readers[0], cast):
        proposal.may_take(readers[0])
    return proposal


def around_linear(proposal: Proposal) -> Proposal:
    """An order of columns, RMSNorm, a cast and a quantization before; SwiGLU, or a bias and a residual, after."""
    (hero,) = proposal.ops
    if feeds_swiglu(hero):
        halves = users(hero.results[0])
        proposal.take(*halves, users(halves[0].results[0])[0])
    else:
        _take_residual(proposal, hero)
    x = hero.operands[0]
    if (numbers := producer(x, quantize, quantize_static)) is not None and all(map(proposal.absorbs, numbers.results)):
        proposal.may_take(numbers)
        x = numbers.operands[0]
    widening = producer(x, cast)
    if widening is not None and proposal.absorbs(x):  # the kernel reads the narrow numbers
        proposal.may_take(widening)
        x = widening.operands[0]
    norm = producer(x, rms_norm)
    if norm is not None:
        if not proposal.absorbs(norm.results[0]):
            proposal.leave(norm, "others read its result")
            return proposal
        proposal.may_take(norm)
        x = norm.operands[0]
    if (ordering := producer(x, take_columns)) is not None and proposal.absorbs(x):
        proposal.may_take(ordering)
    return proposal


def _take_residual(proposal: Proposal, hero: mlir.Operation) -> None:
    """And a bias before it."""
    y = hero.results[0]
    if (found := bias_of(hero)) is not None:
        proposal.take(*found.ops)
        y = found.result
    readers = users(y)
    if len(readers) != 1:
        return
    (reader,) = readers
    if is_op(reader, add):
        proposal.take(reader)
    elif op_of(reader) is not None:
        proposal.leave(reader, "no epilogue of this kind")


def around_mixture(proposal: Proposal) -> Proposal:
    """Both products of a mixture of experts, from the second: its gate between them, the weighted sum, a residual."""
    (hero,) = proposal.ops
    proposal.is_whole = True
    mixture = find_mixture(hero)
    if not isinstance(mixture, str):
        proposal.take(*mixture.ops)
    return proposal


def around_experts(proposal: Proposal) -> Proposal:
    """The bias of a product with experts, and the gate."""
    proposal.take(*find_product(proposal.ops[0]).ops)
    return proposal


def around_router(proposal: Proposal) -> Proposal:
    """The router's linear, and the norm of what it reads, which experts read too."""
    (hero,) = proposal.ops
    proposal.is_whole = True
    product = producer(hero.operands[0], linear)
    if product is None or not proposal.absorbs(product.results[0]):
        return proposal
    rounding = producer(product.operands[0], cast)
    norm = producer(product.operands[0] if rounding is None else rounding.operands[0], rms_norm)
    if norm is None or (rounding is not None and users(norm.results[0]) != [rounding]):
        return proposal
    proposal.take(norm, *([] if rounding is None else [rounding]), product)
    return proposal


def around_head_norms(proposal: Proposal) -> Proposal:
    """From the last norm of heads that are columns of a projection: theirs, with slices and views, and those before."""
    (hero,) = proposal.ops
    proposal.is_whole = True
    matrix = _projection(hero)
    if matrix is None:
        return proposal
    norms = [
        norm
        for half in users(matrix)
        if is_op(half, slice_axis)
        for view in users(half.results[0])
        if is_op(view, reshape)
        for norm in users(view.results[0])
        if is_op(norm, rms_norm) and _projection(norm) == matrix
    ]
    if in_block_order(norms)[-1] == hero:
        proposal.take(*norms)
        for norm in norms:
            take_slices(proposal, norm.operands[0])
    return proposal


def _projection(norm: mlir.Operation) -> mlir.Value | None:
    """The matrix whose columns a norm reads, by a slice and a view that nobody else reads."""
    view = producer(norm.operands[0], reshape)
    half = None if view is None else producer(view.operands[0], slice_axis)
    if view is None or half is None or users(half.results[0]) != [view] or users(view.results[0]) != [norm]:
        return None
    return half.operands[0]
