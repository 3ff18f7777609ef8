"""Models that see images, without their eyes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlir.ir as mlir

from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.inputs import StepInputs
from warploom.frontend.models.registry import Geometry
from warploom.frontend.models.weights import Weights
from warploom.frontend.tensors import MissingTensorError


@dataclass(frozen=True)
class TextPart:
    """A decoder that is one module of a larger model.

    Attributes:
        decoder: of text.
        module: that it is.
        head_may_miss: a checkpoint without a head is tied, whatever the config says (as transformers reads it).
    """

    decoder: Decoder
    module: str
    head_may_miss: bool = False

    @property
    def geometry(self) -> Geometry:
        """Of the decoder."""
        return self.decoder.geometry

    def forward(self, weights: Weights, step: StepInputs) -> tuple[mlir.Value, mlir.Value]:
        """One step of the decoder."""
        inside, sizes, decoder = weights / self.module, self.decoder.sizes, self.decoder
        if self.head_may_miss:
            try:
                inside.require(f"{inside.prefix}{decoder.names.head}.weight", (sizes.vocab, sizes.hidden))
            except MissingTensorError:
                decoder = replace(decoder, sizes=replace(sizes, tied=True))
        return decoder.forward(inside, step)
