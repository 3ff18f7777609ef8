"""How a linear layer is cut into blocks: the numbers that tuning chooses. None of them changes what is computed."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class GemvTile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="gemv"):
    """Up to `block_t` tokens on CUDA cores: a block computes `block_n` outputs, `block_k` columns at a time.

    Attributes:
        ahead: how many pieces of W are loaded before the previous kernel is waited for, and then kept in flight.
    """

    block_n: int
    block_k: int
    ahead: int
    num_warps: int
    block_t: int = 1


class StreamTile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="stream"):
    """One token on CUDA cores: `blocks` blocks hold x in registers and compute `block_n` outputs at a time.

    Attributes:
        ahead: how often `block_n` outputs' rows of W are in flight, loaded before the previous kernel is waited for.
    """

    block_n: int
    ahead: int
    blocks: int
    num_warps: int


class SegmentTile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="segment"):
    """One token on Hopper's tensor cores: `blocks` blocks hold x, each warp takes two rows at a time.

    Attributes:
        ahead: pieces of rows that a warp has in flight, the first of them before the previous kernel is waited for.
    """

    ahead: int
    blocks: int
    num_warps: int


class SkinnyTile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="skinny"):
    """Few tokens on tensor cores, W on their left side: a block computes `block_n` outputs of `block_t` tokens.

    Attributes:
        splits: blocks that share the columns of one tile.
        ahead: how many pieces of W are called into L2 before the previous kernel is waited for.
        tma: W, and x if it is used as it is, come through tensor maps; sm_90 and later.
    """

    block_n: int
    block_t: int
    block_k: int
    num_warps: int
    num_stages: int
    splits: int = 1
    ahead: int = 0
    tma: bool = False


class RingTile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ring"):
    """Few tokens on Hopper's tensor cores, W through a ring that is filled before the previous kernel is waited for.

    Attributes:
        block_n: outputs of a block: 64 or 128; for SwiGLU it reads as many rows of gate, and of up.
        num_stages: of the ring.
        splits: blocks that share the columns of one tile.
    """

    block_n: int
    block_t: int
    block_k: int
    num_warps: int
    num_stages: int
    splits: int = 1


class MixedTile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="mixed"):
    """Quantized weights and bf16 activations, any number of tokens: a block computes `block_n` outputs of `block_t`."""

    block_n: int
    block_t: int
    num_warps: int
    num_stages: int


class GemmTile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="gemm"):
    """Many tokens on tensor cores: a block computes tiles of `block_t` tokens and `block_n` outputs.

    Attributes:
        group: tiles of this many token blocks are computed together, so that they find W in L2.
        blocks: of a persistent grid; 0: one block for each tile.
        tma: operands and the result go through tensor maps; sm_90 and later.
        halves: the result is stored in two halves, which need half of the shared memory.
    """

    block_t: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    group: int = 8
    blocks: int = 0
    tma: bool = False
    halves: bool = False


class WarpTile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="warps"):
    """Many tokens on Hopper's tensor cores, warps that multiply and a warp that brings tiles of 128 tokens.

    Attributes:
        block_n: rows of W of a tile; of gate and up together.
        num_stages: of the ring.
        group: tiles of this many token blocks are computed together, so that they find W in L2.
        blocks: of a persistent grid.
    """

    block_n: int
    num_stages: int
    group: int = 8
    blocks: int = 132


Tile: TypeAlias = GemvTile | StreamTile | SegmentTile | SkinnyTile | RingTile | MixedTile | GemmTile | WarpTile


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tile for a range of token counts.

    Attributes:
        up_to: the last of the range, which begins after the previous choice's; None: no end.
        fused_norm: norm and rounding of x are parts of the kernel, if there are any; else a kernel before it.
    """

    up_to: int | None
    tile: Tile
    fused_norm: bool = False
