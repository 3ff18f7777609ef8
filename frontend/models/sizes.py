"""The sizes that every decoder has."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.registry import Geometry


@dataclass(frozen=True)
class Sizes:
    """Counts of a decoder; `tied`: the head is the embedding table; `latent`: see `Geometry`."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_context: int
    tied: bool
    latent: int = 0

    @property
    def geometry(self) -> Geometry:
        """What the runtime needs of them."""
        return Geometry(self.vocab, self.layers, self.kv_heads, self.head_dim, self.max_context, self.latent)


def read_sizes(read: ConfigReader, *, tied: bool = False, head_dim: int | None = None) -> Sizes:
    """Read the sizes under their usual names.

    Args:
        read: of the config.
        tied: the family's default of `tie_word_embeddings`.
        head_dim: the family's default; None: hidden_size / num_attention_heads.

    Raises:
        UnsupportedModelError: a size is missing, or heads do not divide.
    """
    hidden, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    kv_heads = read.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise read.refusal("num_key_value_heads", f"a divisor of num_attention_heads={heads}")
    return Sizes(
        vocab=read.integer("vocab_size"),
        hidden=hidden,
        intermediate=read.integer("intermediate_size"),
        layers=read.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=read.integer("head_dim", head_dim or hidden // heads),
        max_context=read.integer("max_position_embeddings"),
        tied=read.flag("tie_word_embeddings", tied),
    )


def read_older_sizes(
    read: ConfigReader, hidden: str, heads: str, layers: str, context: str, *, default_context: int | None = None
) -> Sizes:
    """Read the sizes of models from before the usual names, which are given (GPT-2, BLOOM, MPT).

    They have a key for each query, a tied head, and inner columns four times the others unless `n_inner` says so.

    Raises:
        UnsupportedModelError: a size is missing, or heads do not divide.
    """
    columns, count = read.integer(hidden), read.integer(heads)
    if columns % count:
        raise read.refusal(hidden, f"a multiple of {heads}={count}")
    return Sizes(
        vocab=read.integer("vocab_size"),
        hidden=columns,
        intermediate=read.integer("n_inner", 4 * columns),
        layers=read.integer(layers),
        heads=count,
        kv_heads=count,
        head_dim=columns // count,
        max_context=read.integer(context, default_context),
        tied=read.flag("tie_word_embeddings", True),
    )
