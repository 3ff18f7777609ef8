"""The GGUF container: what a good file holds, and that no broken file gives anything but a typed error."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.frontend.tiny_checkpoints import GGUFContents
from warploom.errors import CheckpointError, UnsupportedModelError, WarploomError
from warploom.frontend.checkpoint import open_checkpoint
from warploom.frontend.gguf_file import read_gguf_file

Writer = Callable[[GGUFContents], Path]


def test_agrees_with_the_gguf_package(write_gguf: Writer, gguf_contents: GGUFContents) -> None:
    path = write_gguf(gguf_contents)
    ours, theirs = read_gguf_file(path), gguf.GGUFReader(path)
    expected = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata == expected
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        assert ours.tensors[tensor.name].shape == tuple(reversed(tensor.shape.tolist()))
        np.testing.assert_array_equal(ours.tensors[tensor.name].data, tensor.data.reshape(-1).view(np.uint8))


def test_metadata_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "types.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    integers = {"uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 1 << 31}
    integers |= {"int32": -(1 << 31), "uint64": 1 << 63, "int64": -(1 << 63)}
    for name, number in integers.items():
        getattr(writer, f"add_{name}")(f"x.{name}", number)
    writer.add_float32("x.float32", 0.5)
    writer.add_float64("x.float64", 0.1)
    writer.add_bool("x.bool", True)
    writer.add_string("x.string", "naïve 日本 😀")
    writer.add_array("x.strings", ["a", "", "ü"])
    writer.add_array("x.floats", [0.5, -2.0])
    writer.add_array("x.bools", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = read_gguf_file(path).metadata
    assert {name: metadata[f"x.{name}"] for name in integers} == integers
    assert (metadata["x.float32"], metadata["x.float64"], metadata["x.bool"]) == (0.5, 0.1, True)
    assert metadata["x.string"] == "naïve 日本 😀"
    assert metadata["x.strings"] == ["a", "", "ü"]
    assert metadata["x.floats"] == [0.5, -2.0]
    assert metadata["x.bools"] == [True, False]


def test_version_2_is_read_like_version_3(write_gguf: Writer, gguf_contents: GGUFContents) -> None:
    path = write_gguf(gguf_contents)
    third = read_gguf_file(path)
    patch(path, 4, struct.pack("<I", 2))
    assert read_gguf_file(path).metadata == third.metadata


def patch(path: Path, offset: int, replacement: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(replacement)


@pytest.mark.parametrize(
    ("offset", "replacement", "message"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, struct.pack("<I", 1), "version 1"),
        (4, struct.pack("<I", 4), "version 4"),
        (4, struct.pack(">I", 3), "version 3, big-endian"),
        (8, struct.pack("<Q", 1 << 60), "corrupt"),
        (16, struct.pack("<Q", 1 << 60), "corrupt"),
        (24, struct.pack("<Q", 1 << 62), "corrupt"),
        (32, b"\xff\xff", "corrupt: a string"),
    ],
)
def test_corrupt_header(
    write_gguf: Writer, gguf_contents: GGUFContents, offset: int, replacement: bytes, message: str
) -> None:
    path = write_gguf(gguf_contents)
    patch(path, offset, replacement)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_gguf_file(path)
    assert str(path) in str(caught.value)


def test_truncated_data_names_file_and_sizes(write_gguf: Writer, gguf_contents: GGUFContents) -> None:
    path = write_gguf(gguf_contents)
    last = list(read_gguf_file(path).tensors.values())[-1]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - last.data.size)
    with pytest.raises(CheckpointError, match="truncated") as caught:
        read_gguf_file(path)
    assert str(path) in caught.value.what
    assert caught.value.found == f"{path.stat().st_size} bytes"


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.gguf is missing"):
        read_gguf_file(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(CheckpointError, match="truncated"):
        read_gguf_file(tmp_path / "model.gguf")


def test_unsupported_quantization_lists_the_supported(tmp_path: Path) -> None:
    path = tmp_path / "iq.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((2, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match="Q4_K") as caught:
        read_gguf_file(path)
    assert caught.value.found == "IQ2_XXS"


def test_tensor_without_elements_is_corrupt(write_gguf: Writer, gguf_contents: GGUFContents) -> None:
    gguf_contents.tensors = {**gguf_contents.tensors, "output.weight": np.zeros((0, 32), np.float32)}
    with pytest.raises(CheckpointError, match=r"tensor output\.weight") as caught:
        read_gguf_file(write_gguf(gguf_contents))
    assert caught.value.found == "[32, 0]"


@pytest.mark.parametrize("heads", [0, 3, 1_000_003])
def test_head_counts_that_do_not_divide_the_rows(write_gguf: Writer, gguf_contents: GGUFContents, heads: int) -> None:
    gguf_contents.metadata |= {"llama.attention.head_count_kv": heads}
    with pytest.raises(CheckpointError, match=r"head_count_kv|attn_k"):
        open_checkpoint(write_gguf(gguf_contents))


@pytest.fixture
def whole(write_gguf: Writer, gguf_contents: GGUFContents) -> bytes:
    return write_gguf(gguf_contents).read_bytes()


HEADER_BYTES = 5792  # of the tiny file; what follows is tensor data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(offset=st.integers(0, HEADER_BYTES - 1), replacement=st.none() | st.binary(min_size=1, max_size=8))
def test_damage_anywhere_in_the_header_gives_a_typed_error_or_none(
    tmp_path: Path, whole: bytes, offset: int, replacement: bytes | None
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.unlink(missing_ok=True)  # a new file: the old one may still be mapped
    if replacement is None:
        damaged.write_bytes(whole[:offset])
    else:
        damaged.write_bytes(whole[:offset] + replacement + whole[offset + len(replacement) :])
    try:
        checkpoint = open_checkpoint(damaged)
    except WarploomError:
        return
    assert all(tensor.load().shape == tensor.shape for tensor in checkpoint.tensors.values())
