"""The inputs of `@step` and what the target fixes about the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.types import DType


@dataclass(frozen=True)
class CacheSpec:
    """How a target lays out the paged KV cache; see `ir/ops/paged_cache.py`."""

    page_size: int
    dtype: DType
    k_layout: str


@dataclass(frozen=True)
class StepInputs:
    """One ragged step: T tokens of S sequences, R of which need logits, P pages per sequence at most.

    All are i32 but `kv`: token_ids, positions, slots [T]; page_table [S, P]; query_start [S+1]; context_lens [S];
    logit_rows [R]. Activations between ops are `activation` (f32 or bf16); sums are f32 whatever it is. No sequence
    will be longer than `max_context`.
    """

    token_ids: mlir.Value
    positions: mlir.Value
    slots: mlir.Value
    page_table: mlir.Value
    query_start: mlir.Value
    context_lens: mlir.Value
    logit_rows: mlir.Value
    kv: mlir.Value
    cache: CacheSpec
    activation: DType
    max_context: int
