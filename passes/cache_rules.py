"""Fusion rules of heroes that write the KV cache or attend it: rotations, norms and slices of projections."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.latent_attention import latent_attention
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.rope import rope
from warploom.ir.ops.scaled_cache import ATTENTIONS, WRITES
from warploom.ir.ops.shape import reshape
from warploom.ir.rewrite import is_op, producer, users
from warploom.passes.donate import IN_PLACE
from warploom.passes.proposal import Proposal, take_slices


def around_attention(proposal: Proposal) -> Proposal:
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
            take_slices(proposal, source)
    return proposal


def around_kv_write(proposal: Proposal) -> Proposal:
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
        take_slices(proposal, source)
    return proposal


def around_latent_write(proposal: Proposal) -> Proposal:
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
        take_slices(proposal, source)
    return proposal


def _latent_queries(write: mlir.Operation, rotated_key: mlir.Operation) -> list[mlir.Operation]:
    """The rotations, by the angles of the key, of the queries that attend the written cache."""
    readers = [u for u in users(write.results[0]) if is_op(u, latent_attention)]
    rotations = [producer(reader.operands[1], rope) for reader in readers]
    return [r for r in rotations if r is not None and list(r.operands)[1:] == list(rotated_key.operands)[1:]]


def around_head_linear(proposal: Proposal) -> Proposal:
    """The slices of a projection that it alone reads."""
    (hero,) = proposal.ops
    take_slices(proposal, hero.operands[0])
    return proposal


def around_absorbed(proposal: Proposal) -> Proposal:
    """Both absorbed maps of a latent attention, and the slices of a projection that the first alone reads."""
    (hero,) = proposal.ops
    proposal.is_whole = True
    mixed = hero.results[0]
    before, after = producer(hero.operands[0], head_linear), [u for u in users(mixed) if is_op(u, head_linear)]
    if before is not None and users(before.results[0]) == [hero] and after and users(mixed) == after[:1]:
        proposal.take(before, *after)
        take_slices(proposal, before.operands[0])
    return proposal


def _queries(write: mlir.Operation, rotated_k: mlir.Operation) -> list[mlir.Operation]:
    """The rotations, by the angles of k, of the queries that attend the written cache."""
    readers = [u for u in users(write.results[0]) if is_op(u, *ATTENTIONS)]
    rotations = [producer(reader.operands[0], rope) for reader in readers]
    return [r for r in rotations if r is not None and list(r.operands)[1:] == list(rotated_k.operands)[1:]]
