"""Checkpoints split over several files by an index: `{"weight_map": {tensor name: file name}}`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from warploom.errors import CheckpointError
from warploom.frontend.tensors import LazyTensor


class ShardIndex(msgspec.Struct):
    """The part of a `*.index.json` that says which file holds which tensor."""

    weight_map: dict[str, str]


def read_shards(index: Path, read_shard: Callable[[Path], dict[str, LazyTensor]]) -> dict[str, LazyTensor]:
    """Every tensor that the index names, from the files beside it.

    Raises:
        CheckpointError: the index is malformed, a shard is missing or broken, or a shard lacks a tensor it should hold.
    """
    weight_map = _read_weight_map(index)
    shards = {name: read_shard(index.parent / name) for name in sorted(set(weight_map.values()))}
    for tensor, shard in weight_map.items():
        if tensor not in shards[shard]:
            raise CheckpointError(
                f"shard {index.parent / shard} lacks a tensor that {index.name} places in it",
                expected=tensor,
                found=f"{len(shards[shard])} other tensors",
                fix="download the shard and the index again; they belong to different versions",
            )
    return {tensor: shards[shard][tensor] for tensor, shard in weight_map.items()}


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = msgspec.json.decode(index.read_bytes(), type=ShardIndex).weight_map
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"the shard index {index} is malformed",
            expected='JSON with a "weight_map" of tensor names to file names',
            found=str(error),
            fix="download the file again",
        ) from error
    for shard in weight_map.values():
        # A shard elsewhere would let a downloaded index read any file of this machine.
        if Path(shard).name != shard:
            raise CheckpointError(
                f"the shard index {index} names a file outside its folder",
                expected="plain file names",
                found=shard,
            )
    return weight_map
