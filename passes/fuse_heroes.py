"""Vertical fusion around heroes: each hand-shaped kernel absorbs what its rule allows, before and after it.

A rule proposes the ops of a group or says what it left out and why. The target then says whether it has a kernel for
the group; if not, it is asked again without what the rule could do without, at last for the hero alone. A group that
the target takes must also pay, by the cost model of its device (see `profit`). Every decision is recorded in
`wl.fusion` of the entry.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import Function, path_of
from warploom.ir.op import op_of
from warploom.ir.ops.experts import expert_linear, quantized_expert_linear
from warploom.ir.ops.group_routing import route_in_groups
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.latent_attention import latent_attention, latent_write
from warploom.ir.ops.linear import embed, linear
from warploom.ir.ops.mxfp4 import mxfp4_expert_linear
from warploom.ir.ops.norm import layer_norm, rms_norm
from warploom.ir.ops.quantized_embed import quantized_embed
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.ops.routing import route_experts
from warploom.ir.ops.sample import sample, top_logprobs
from warploom.ir.ops.scaled_cache import ATTENTIONS, WRITES
from warploom.ir.rewrite import entries
from warploom.ir.target import Target
from warploom.passes.cache_rules import (
    around_absorbed,
    around_attention,
    around_head_linear,
    around_kv_write,
    around_latent_write,
)
from warploom.passes.cost import find_device
from warploom.passes.decisions import record, recorded
from warploom.passes.extensions import extension_modules
from warploom.passes.linear_rules import (
    alone,
    and_cast,
    around_experts,
    around_head_norms,
    around_linear,
    around_mixture,
    around_router,
)
from warploom.passes.outline import Outliner, completes_late, in_block_order
from warploom.passes.profit import gain
from warploom.passes.proposal import Proposal, Rules


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


# Who absorbs most comes first, whom others absorb last; in every phase only those that are left.
PHASES: tuple[Rules, ...] = (
    {
        **dict.fromkeys(ATTENTIONS, ("attention", around_attention)),
        latent_write: ("latent_write", around_latent_write),
        latent_attention: ("absorbed_attention", around_absorbed),
        route_experts: ("router", around_router),
        expert_linear: ("expert_mlp", around_mixture),
        quantized_expert_linear: ("expert_mlp", around_mixture),
        mxfp4_expert_linear: ("expert_mlp", around_mixture),
    },
    {
        linear: ("linear", around_linear),
        quantized_linear: ("linear", around_linear),
        scaled_linear: ("linear", around_linear),
        expert_linear: ("expert_linear", around_experts),
        quantized_expert_linear: ("expert_linear", around_experts),
        route_experts: ("route_experts", alone),
        route_in_groups: ("route_in_groups", alone),
        mxfp4_expert_linear: ("expert_linear", around_experts),
        head_linear: ("head_linear", around_head_linear),
        latent_attention: ("latent_attention", alone),
        **dict.fromkeys(WRITES, ("rope_kv_write", around_kv_write)),
        **dict.fromkeys(ATTENTIONS, ("attention", alone)),
        embed: ("embed", and_cast),
        quantized_embed: ("embed", and_cast),
        sample: ("sample", alone),
        top_logprobs: ("top_logprobs", alone),
    },
    {rms_norm: ("head_norms", around_head_norms)},
    {rms_norm: ("rms_norm", and_cast), layer_norm: ("layer_norm", alone)},
)
