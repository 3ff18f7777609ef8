"""GGUF tensors under Hugging Face names, in Hugging Face row order, dequantized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from tests.unit.frontend.tiny_checkpoints import HEAD_DIM, KV_HEADS, GGUFContents, interleave
from warploom.errors import UnsupportedModelError
from warploom.frontend.checkpoint import open_checkpoint
from warploom.frontend.gguf_file import KINDS, GGUFTensor
from warploom.frontend.gguf_reader import undo_permute
from warploom.frontend.gguf_values import read_values

Writer = Callable[[GGUFContents], Path]


def test_f32_file_gives_back_the_original_tensors(
    write_gguf: Writer, gguf_contents: GGUFContents, tensors: dict[str, NDArray[np.float32]]
) -> None:
    read = open_checkpoint(write_gguf(gguf_contents)).tensors
    assert read.keys() == tensors.keys()
    for name, values in tensors.items():
        assert (read[name].name, read[name].shape, read[name].dtype) == (name, values.shape, "f32")
        np.testing.assert_array_equal(read[name].load(), values)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(Kind.F16, "f16"), (Kind.BF16, "bf16")], ids=lambda value: getattr(value, "name", value)
)
def test_half_precision_is_kept(
    write_gguf: Writer,
    gguf_contents: GGUFContents,
    tensors: dict[str, NDArray[np.float32]],
    kind: Kind,
    dtype: str,
) -> None:
    gguf_contents.kind = kind
    read = open_checkpoint(write_gguf(gguf_contents)).tensors
    name = "model.layers.1.self_attn.k_proj.weight"
    assert read[name].dtype == dtype
    expected = tensors[name].astype(np.float16 if dtype == "f16" else ml_dtypes.bfloat16)
    np.testing.assert_array_equal(read[name].load(), expected)


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(Kind.Q8_0, 0.02), (Kind.Q5_1, 0.15), (Kind.Q5_0, 0.2), (Kind.Q4_1, 0.25), (Kind.Q4_0, 0.6)],
    ids=lambda value: getattr(value, "name", value),
)
def test_quantized_file_is_dequantized_in_the_original_order(
    write_gguf: Writer,
    gguf_contents: GGUFContents,
    tensors: dict[str, NDArray[np.float32]],
    kind: Kind,
    tolerance: float,
) -> None:
    gguf_contents.kind = kind
    read = open_checkpoint(write_gguf(gguf_contents)).tensors
    for name, values in tensors.items():
        assert read[name].dtype == "f32"
        np.testing.assert_allclose(read[name].load().astype(np.float32), values, atol=tolerance)


def test_kinds_that_nothing_keeps_are_told(write_gguf: Writer, gguf_contents: GGUFContents) -> None:
    gguf_contents.kind = Kind.Q5_0
    (note,) = open_checkpoint(write_gguf(gguf_contents)).notes
    assert note == "15 tensors of Q5_0 are stored in bf16: no kernels read that kind"
    gguf_contents.kind = Kind.Q8_0
    assert not open_checkpoint(write_gguf(gguf_contents)).notes


def random_blocks(kind: Kind, rows: int, columns: int) -> NDArray[np.uint8]:
    """Random bytes that form valid blocks of `kind`, [rows * bytes of a row]; scales are finite halves."""
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(1).integers(0, 256, (rows * columns // block_elements, block_bytes), dtype=np.uint8)
    scale_offsets = {Kind.Q6_K: (block_bytes - 2,)}.get(kind, (0, 2))
    for offset in scale_offsets:
        blocks[:, offset : offset + 2] = np.array([0.0125], np.float16).view(np.uint8)
    return blocks.reshape(-1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name.endswith("_K")], ids=lambda kind: kind.name)
def test_k_quants_agree_with_the_gguf_package(kind: Kind) -> None:
    blocks = random_blocks(kind, 6, 512)
    values = read_values(GGUFTensor("w", (6, 512), kind, blocks))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, gguf.quants.dequantize(blocks.reshape(6, -1), kind))


def test_q4_k_agrees_with_the_definition_of_the_format() -> None:
    """Value = d * scale * q - dmin * min, 8 groups of 32 with 6-bit scales and mins (ggml-quants.c, block_q4_K)."""
    block = random_blocks(Kind.Q4_K, 1, 256)
    d, dmin = block[:4].view(np.float16).astype(np.float32)
    packed, quants = block[4:16].astype(int), block[16:].reshape(4, 32)
    expected = np.empty((8, 32), np.float32)
    for group in range(8):
        if group < 4:
            scale, minimum = packed[group] & 63, packed[group + 4] & 63
        else:
            scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4
            minimum = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4
        nibbles = quants[group // 2] >> 4 if group % 2 else quants[group // 2] & 15
        expected[group] = d * scale * nibbles - dmin * minimum
    values = read_values(GGUFTensor("w", (1, 256), Kind.Q4_K, block)).astype(np.float32)
    np.testing.assert_allclose(values.reshape(8, 32), expected, rtol=1e-6)


def test_q6_k_agrees_with_the_definition_of_the_format() -> None:
    """Value = d * scale * (q - 32): 4 low bits in `ql`, 2 high bits in `qh`, 16 int8 scales (block_q6_K)."""
    block = random_blocks(Kind.Q6_K, 1, 256)
    low, high, scales = block[:128].astype(int), block[128:192].astype(int), block[192:208].view(np.int8)
    d = block[208:].view(np.float16).astype(np.float32)[0]
    expected = np.empty(256, np.float32)
    for index in range(256):
        half, quarter, lane = index // 128, index % 128 // 32, index % 32
        nibble = low[half * 64 + quarter % 2 * 32 + lane] >> (4 if quarter >= 2 else 0) & 15
        top = high[half * 32 + lane] >> 2 * quarter & 3
        expected[index] = d * scales[index // 16] * ((nibble | top << 4) - 32)
    values = read_values(GGUFTensor("w", (1, 256), Kind.Q6_K, block)).astype(np.float32)
    np.testing.assert_allclose(values.reshape(256), expected, rtol=1e-6)


def test_undo_permute_is_the_inverse_of_llama_cpps_order() -> None:
    rows = np.arange(KV_HEADS * HEAD_DIM * 3, dtype=np.float32).reshape(-1, 3)
    permuted = interleave(rows, KV_HEADS)
    assert not np.array_equal(permuted, rows)
    np.testing.assert_array_equal(undo_permute(permuted, KV_HEADS), rows)
    np.testing.assert_array_equal(undo_permute(permuted[:, 0], KV_HEADS), rows[:, 0])  # biases


def test_data_is_read_on_load_and_not_before(write_gguf: Writer, gguf_contents: GGUFContents) -> None:
    path = write_gguf(gguf_contents)
    norm = open_checkpoint(path).tensors["model.norm.weight"]
    offset = path.read_bytes().index(norm.load().tobytes())
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(np.full(norm.shape, 7, np.float32).tobytes())
    np.testing.assert_array_equal(norm.load(), np.full(norm.shape, 7, np.float32))


@pytest.mark.parametrize("name", ["blk.0.ffn_gate_exps.weight", "blk.0.attn_q_norm.weight", "position_embd.weight"])
def test_tensor_of_another_architecture_is_refused(write_gguf: Writer, gguf_contents: GGUFContents, name: str) -> None:
    gguf_contents.tensors = {**gguf_contents.tensors, name: np.zeros((32, 32), np.float32)}
    with pytest.raises(UnsupportedModelError, match="does not have") as caught:
        open_checkpoint(write_gguf(gguf_contents))
    assert caught.value.found == name
