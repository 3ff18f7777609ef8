"""Vertical fusion around heroes: each hand-shaped kernel absorbs what its rule allows, before and after it.

A rule proposes the ops of a group or says what it left out and why. The target then says whether it has a kernel for
the group; if not, it is asked again without what the rule could do without, at last for the hero alone. A group that
the target takes must also pay, by the cost model of its device (see `profit`). Every decision is recorded in
`wl.fusion` of the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import mlir.ir as mlir

from warploom.ir.expert_patterns import find_mixture, find_product
from warploom.ir.function import Function, path_of
from warploom.ir.op import Op, op_of
from warploom.ir.ops.elementwise import add, cast
from warploom.ir.ops.experts import expert_linear, quantized_expert_linear
from warploom.ir.ops.group_routing import route_in_groups
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.latent_attention import latent_attention, latent_write
from warploom.ir.ops.linear import embed, linear
from warploom.ir.ops.mxfp4 import mxfp4_expert_linear
from warploom.ir.ops.norm import layer_norm, rms_norm
from warploom.ir.ops.quantize import quantize, quantize_static
from warploom.ir.ops.quantized_embed import quantized_embed
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.ops.rope import rope
from warploom.ir.ops.routing import route_experts
from warploom.ir.ops.sample import sample, top_logprobs
from warploom.ir.ops.scaled_cache import ATTENTIONS, WRITES
from warploom.ir.ops.shape import reshape, slice_axis
from warploom.ir.patterns import bias_of, feeds_swiglu
from warploom.ir.rewrite import entries, is_op, producer, users
from warploom.ir.target import Target
from warploom.passes.cost import find_device
from warploom.passes.decisions import record, recorded
from warploom.passes.donate import IN_PLACE
from warploom.passes.extensions import extension_modules
from warploom.passes.outline import Outliner, completes_late, in_block_order
from warploom.passes.profit import gain


class Proposal:
    """The ops that a rule wants in a hero's group, and why it left neighbours out."""

    def __init__(self, hero: mlir.Operation) -> None:
        self.ops = [hero]
        self.is_whole = False  # the group is taken as it is, or left to a later phase
        self.optional: list[mlir.Operation] = []
        self.refusals: list[str] = []

    def take(self, *ops: mlir.Operation) -> None:
        """Add ops to the group."""
        self.ops += [op for op in ops if op not in self.ops]

    def may_take(self, operation: mlir.Operation) -> None:
        """Add an op that the group can do without, if the next ones are left out too."""
        self.optional.append(operation)

    def candidates(self) -> Iterator[list[mlir.Operation]]:
        """The groups to ask for, the largest first."""
        if self.is_whole and len(self.ops) == 1:
            return
        smallest = [self.ops[:1]] if len(self.ops) > 1 and not self.is_whole else []
        for ops in (self.ops, *smallest):
            for count in range(len(self.optional), -1, -1):
                yield ops + self.optional[:count]

    def leave(self, operation: mlir.Operation, reason: str) -> None:
        """Record why an op stays outside."""
        self.refusals.append(f"{operation.name} stays outside: {reason}")

    def absorbs(self, value: mlir.Value) -> bool:
        """Whether every reader of a value is in the group."""
        return all(u in self.ops + self.optional for u in users(value))


def fuse_heroes(module: mlir.Module, target: Target) -> None:
    """Outline a group around every hero."""
    outliner = Outliner(module)
    for function in entries(module):
        log: list[str] = recorded(function)
        for rules in (*rules_of_plugins(), *PHASES):
            for operation in [op for op in function.ops if op_of(op) in rules]:
                log += _fuse(function, operation, rules, outliner, target)
        record(function, log)


def rules_of_plugins() -> list[Rules]:
    """What plugins add: files of `passes/` with `RULES`. They come first, and so may take what ours would."""
    return [module.RULES for module in extension_modules() if hasattr(module, "RULES")]


def _fuse(function: Function, hero: mlir.Operation, rules: Rules, outliner: Outliner, target: Target) -> list[str]:
    """Try the proposal of the hero's rule, then less and less of it; returns the decisions."""
    spec = op_of(hero)
    assert spec is not None
    kind, rule = rules[spec]
    device = find_device(target.name)
    proposal = rule(Proposal(hero))
    place = f"{path_of(hero)}: {spec.name}"
    log = [f"{place}: {refusal}" for refusal in proposal.refusals]
    for ops in proposal.candidates():
        ordered = in_block_order(ops)
        reason = completes_late(ordered)
        if reason is None:
            group = outliner.build(function, ordered, kind, spec.name)
            reason, note = target.refuses(group), ""
            if reason is None and device is not None and len(ordered) > 1:
                found = gain(function, ordered, kind, device)
                reason, note = found.refusal, f" ({found})"
            if reason is None:
                names = " + ".join(op.name.removeprefix("wl.") for op in ordered)
                outliner.replace(ordered, hero, group)
                return [*log, f"{place}: fused {names}{note} as @{group.name}"]
        log.append(f"{place}: no kernel for {len(ordered)} ops: {reason}")
    return log


def _alone(proposal: Proposal) -> Proposal:
    return proposal


def _and_cast(proposal: Proposal) -> Proposal:
    """The cast of its result, if that is all that reads it."""
    (hero,) = proposal.ops
    readers = users(hero.results[0])
    if len(readers) == 1 and is_op(readers[0], cast):
        proposal.may_take(readers[0])
    return proposal


def _linear(proposal: Proposal) -> Proposal:
    """RMSNorm, a cast and a quantization before; SwiGLU, or a bias and a residual, after."""
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
        if proposal.absorbs(norm.results[0]):
            proposal.may_take(norm)
        else:
            proposal.leave(norm, "others read its result")
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


def _mixture(proposal: Proposal) -> Proposal:
    """Both products of a mixture of experts, from the second: its gate between them, the weighted sum, a residual."""
    (hero,) = proposal.ops
    proposal.is_whole = True
    mixture = find_mixture(hero)
    if not isinstance(mixture, str):
        proposal.take(*mixture.ops)
    return proposal


def _experts(proposal: Proposal) -> Proposal:
    """The bias of a product with experts, and the gate."""
    proposal.take(*find_product(proposal.ops[0]).ops)
    return proposal


def _router(proposal: Proposal) -> Proposal:
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


def _attention(proposal: Proposal) -> Proposal:
    """The write of this step's keys and values, with the rotations, and the slices of a projection that all read."""
    (hero,) = proposal.ops
    proposal.is_whole = True
    query, cache, *_ = hero.operands
    write, rotated_q = producer(cache, *WRITES), producer(query, rope)
    if write is None or IN_PLACE not in write.attributes or rotated_q is None:
        return proposal
    _, key, value, *_ = write.operands
    rotated_k = producer(key, rope)
    if rotated_k is not None and list(rotated_k.operands)[1:] == list(rotated_q.operands)[1:]:
        proposal.take(write, rotated_q, rotated_k)
        for source in (rotated_q.operands[0], rotated_k.operands[0], value):
            _take_slices(proposal, source)
    return proposal


def _kv_write(proposal: Proposal) -> Proposal:
    """The rotations of q and k, if any, and the slices of a fused projection that they and v read."""
    (hero,) = proposal.ops
    if IN_PLACE not in hero.attributes:
        proposal.leave(hero, "kernels write in place, and others need the cache as it was")
        proposal.is_whole = True
        return proposal
    _, key, value, *_ = hero.operands
    sources = [key, value]
    rotated_k = producer(key, rope)
    if rotated_k is not None:
        rotated = [rotated_k, *_queries(hero, rotated_k)]
        proposal.take(*rotated)
        sources = [*(r.operands[0] for r in rotated), value]
    for source in sources:
        _take_slices(proposal, source)
    return proposal


def _latent_write(proposal: Proposal) -> Proposal:
    """The norm of the latent, the rotations of the key and of the queries that attend, and slices of projections."""
    (hero,) = proposal.ops
    if IN_PLACE not in hero.attributes:
        proposal.leave(hero, "kernels write in place, and others need the cache as it was")
        proposal.is_whole = True
        return proposal
    _, latent, key, _ = hero.operands
    norm, view = producer(latent, rms_norm), producer(key, reshape)
    rotation = None if view is None else producer(view.operands[0], rope)
    sources = [latent, key]
    if norm is not None and proposal.absorbs(latent):
        proposal.take(norm)
        sources[0] = norm.operands[0]
    if rotation is not None and proposal.absorbs(key):
        rotated = [rotation, *_latent_queries(hero, rotation)]
        proposal.take(view, *rotated)
        sources[1:] = [r.operands[0] for r in rotated]
    for source in sources:
        _take_slices(proposal, source)
    return proposal


def _latent_queries(write: mlir.Operation, rotated_key: mlir.Operation) -> list[mlir.Operation]:
    """The rotations, by the angles of the key, of the queries that attend the written cache."""
    readers = [u for u in users(write.results[0]) if is_op(u, latent_attention)]
    rotations = [producer(reader.operands[1], rope) for reader in readers]
    return [r for r in rotations if r is not None and list(r.operands)[1:] == list(rotated_key.operands)[1:]]


def _head_linear(proposal: Proposal) -> Proposal:
    """The slices of a projection that it alone reads."""
    (hero,) = proposal.ops
    _take_slices(proposal, hero.operands[0])
    return proposal


def _absorbed(proposal: Proposal) -> Proposal:
    """Both absorbed maps of a latent attention, and the slices of a projection that the first alone reads."""
    (hero,) = proposal.ops
    proposal.is_whole = True
    mixed = hero.results[0]
    before, after = producer(hero.operands[0], head_linear), [u for u in users(mixed) if is_op(u, head_linear)]
    if before is not None and users(before.results[0]) == [hero] and after and users(mixed) == after[:1]:
        proposal.take(before, *after)
        _take_slices(proposal, before.operands[0])
    return proposal


def _head_norms(proposal: Proposal) -> Proposal:
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
            _take_slices(proposal, norm.operands[0])
    return proposal


def _projection(norm: mlir.Operation) -> mlir.Value | None:
    """The matrix whose columns a norm reads, by a slice and a view that nobody else reads."""
    view = producer(norm.operands[0], reshape)
    half = None if view is None else producer(view.operands[0], slice_axis)
    if view is None or half is None or users(half.results[0]) != [view] or users(view.results[0]) != [norm]:
        return None
    return half.operands[0]


def _queries(write: mlir.Operation, rotated_k: mlir.Operation) -> list[mlir.Operation]:
    """The rotations, by the angles of k, of the queries that attend the written cache."""
    readers = [u for u in users(write.results[0]) if is_op(u, *ATTENTIONS)]
    rotations = [producer(reader.operands[0], rope) for reader in readers]
    return [r for r in rotations if r is not None and list(r.operands)[1:] == list(rotated_k.operands)[1:]]


def _take_slices(proposal: Proposal, value: mlir.Value) -> None:
    while (operation := producer(value, reshape, slice_axis)) is not None and proposal.absorbs(value):
        proposal.take(operation)
        value = operation.operands[0]


Rule = Callable[[Proposal], Proposal]
Rules = Mapping[Op | None, tuple[str, Rule]]
# Who absorbs most comes first, whom others absorb last; in every phase only those that are left.
PHASES: tuple[Rules, ...] = (
    {
        **dict.fromkeys(ATTENTIONS, ("attention", _attention)),
        latent_write: ("latent_write", _latent_write),
        latent_attention: ("absorbed_attention", _absorbed),
        route_experts: ("router", _router),
        expert_linear: ("expert_mlp", _mixture),
        quantized_expert_linear: ("expert_mlp", _mixture),
        mxfp4_expert_linear: ("expert_mlp", _mixture),
    },
    {
        linear: ("linear", _linear),
        quantized_linear: ("linear", _linear),
        scaled_linear: ("linear", _linear),
        expert_linear: ("expert_linear", _experts),
        quantized_expert_linear: ("expert_linear", _experts),
        route_experts: ("route_experts", _alone),
        route_in_groups: ("route_in_groups", _alone),
        mxfp4_expert_linear: ("expert_linear", _experts),
        head_linear: ("head_linear", _head_linear),
        latent_attention: ("latent_attention", _alone),
        **dict.fromkeys(WRITES, ("rope_kv_write", _kv_write)),
        **dict.fromkeys(ATTENTIONS, ("attention", _alone)),
        embed: ("embed", _and_cast),
        quantized_embed: ("embed", _and_cast),
        sample: ("sample", _alone),
        top_logprobs: ("top_logprobs", _alone),
    },
    {rms_norm: ("head_norms", _head_norms)},
    {rms_norm: ("rms_norm", _and_cast), layer_norm: ("layer_norm", _alone)},
)
