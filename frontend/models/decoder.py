"""A decoder-only language model as its parts: an embedding, layers, a last norm, a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.frontend.models.attention import Place
from warploom.frontend.models.inputs import StepInputs
from warploom.frontend.models.norms import Norm
from warploom.frontend.models.registry import Geometry
from warploom.frontend.models.residual import Layer
from warploom.frontend.models.sizes import Sizes
from warploom.frontend.models.weights import Weights
from warploom.ir.function import scope
from warploom.ir.ops.elementwise import as_dtype
from warploom.ir.ops.linear import embed, linear
from warploom.ir.ops.shape import gather
from warploom.ir.types import DType


@dataclass(frozen=True)
class Names:
    """Where a checkpoint keeps the parts; the defaults are Llama's."""

    model: str = "model"
    embedding: str = "embed_tokens"
    layers: str = "layers"
    norm: str = "norm"
    head: str = "lm_head"


def _as_it_is(weights: Weights, x: mlir.Value, step: StepInputs) -> mlir.Value:
    return x


@dataclass(frozen=True)
class Decoder:
    """What a family makes of a config.

    Attributes:
        sizes: of the model.
        layers: one function per layer; equal ones may be the same function.
        norm: the last.
        names: of modules in the checkpoint.
        embedded: what becomes of embeddings x [T, hidden], given the model's weights.
        scored: what becomes of logits [R, vocab].
    """

    sizes: Sizes
    layers: tuple[Layer, ...]
    norm: Norm
    names: Names = Names()
    embedded: Callable[[Weights, mlir.Value, StepInputs], mlir.Value] = _as_it_is
    scored: Callable[[mlir.Value], mlir.Value] = lambda logits: logits

    @property
    def geometry(self) -> Geometry:
        """Sizes for the KV cache and the runtime."""
        return self.sizes.geometry

    def forward(self, weights: Weights, step: StepInputs) -> tuple[mlir.Value, mlir.Value]:
        """One step: logits [R, V] and the updated kv."""
        names, vocab = self.names, self.sizes.vocab
        model = weights.inside(names.model, f"{names.embedding}.weight", (vocab, self.sizes.hidden))
        table = (model / names.embedding)("weight", (vocab, self.sizes.hidden))
        with scope((model / names.embedding).path):
            x = as_dtype(embed(step.token_ids, table, n=vocab, layout="row"), step.activation)
            x = self.embedded(model, x, step)
        kv = step.kv
        for index, layer in enumerate(self.layers):
            x, kv = layer(model / names.layers / index, x, Place(step, index, kv))
        with scope((model / names.norm).path):
            rows = self.norm(model / names.norm, gather(x, step.logit_rows))
        with scope(names.head):
            head = table if self.sizes.tied else (weights / names.head)("weight", (vocab, self.sizes.hidden))
            return self.scored(linear(as_dtype(rows, DType.F32), head, n=vocab, layout="row")), kv
