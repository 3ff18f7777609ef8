"""The artifact folder: what is written is what is loaded, and everything wrong with a folder is named."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warploom.errors import ArtifactError
from warploom.runtime.artifact import ArtifactWriter, load
from warploom.runtime.manifest import (
    KVInfo,
    Manifest,
    ModelInfo,
    TargetInfo,
    TokenizerInfo,
    Variant,
)
from warploom.runtime.weights import HEADER_BYTES

PARAMS: dict[str, np.ndarray[Any, Any]] = {
    "embed": np.arange(12, dtype=np.float32).reshape(3, 4),
    "scale": np.arange(5, dtype=np.int8),
    "scalar": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "norm": np.ones(3, dtype=np.float32),
}


KV = KVInfo(1, 1, 4, 16, "f32", 16 * 4 * 4 * 2)


def make_manifest() -> Manifest:
    return Manifest(
        warploom_version="",
        model=ModelInfo("test/tiny", "LlamaForCausalLM", 12),
        config={"hidden_size": 4},
        vocab_size=16,
        max_context=64,
        tokenizer=TokenizerInfo("tokenizer.json", eos_token_ids=[2]),
        quantization="f32",
        targets={"cpu": TargetInfo("plan.cpu.json", KV, [Variant("v3", "kernels/cpu/v3.so", ["avx2"])])},
    )


class Interrupting:
    """A parameter whose size is asked for just as the user presses Ctrl-C."""

    @property
    def nbytes(self) -> int:
        raise KeyboardInterrupt


def write_artifact(path: Path, **params: Any) -> None:
    with ArtifactWriter(path, shard_bytes=64) as writer:
        writer.add_text("tokenizer.json", "{}")
        writer.add_text("plan.cpu.json", '{"entries": {}, "kernels": {}}')
        writer.add_bytes("kernels/cpu/v3.so", b"\x7fELF")
        for name, array in (params or PARAMS).items():
            writer.add_param(name, array)
        writer.finish(make_manifest())


def edit_manifest(path: Path, **fields: object) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "artifact")
    return tmp_path / "artifact"


def test_parameters_and_plan_come_back(folder: Path) -> None:
    artifact = load(folder, verify=True)
    assert artifact.params.keys() == PARAMS.keys()
    for name, array in PARAMS.items():
        np.testing.assert_array_equal(artifact.params[name], array)
        assert artifact.params[name].dtype == array.dtype
        assert not artifact.params[name].flags.writeable
    assert artifact.plan("cpu").entries == {}


def test_every_parameter_is_aligned_and_shards_are_bounded(folder: Path) -> None:
    artifact = load(folder)
    sizes = [artifact.manifest.files[name].bytes - HEADER_BYTES for name in artifact.manifest.weights]
    assert len(sizes) > 1
    assert max(sizes) <= 64
    for array in artifact.params.values():
        assert array.size == 0 or array.ctypes.data % 64 == 0


def test_shards_are_valid_safetensors(folder: Path) -> None:
    safe_open = pytest.importorskip("safetensors.numpy").load_file
    for name in load(folder).manifest.weights:
        for key, array in safe_open(folder / name).items():
            if key in PARAMS:
                np.testing.assert_array_equal(array, PARAMS[key])


def test_a_full_header_starts_a_new_shard(tmp_path: Path) -> None:
    params = {f"{index:04}" + "n" * 2000: np.zeros(16, np.float32) for index in range(HEADER_BYTES // 2000 + 2)}
    with ArtifactWriter(tmp_path / "a") as writer:
        for name, array in params.items():
            writer.add_param(name, array)
        writer.add_text("tokenizer.json", "")
        writer.add_text("plan.cpu.json", "")
        writer.add_bytes("kernels/cpu/v3.so", b"")
        writer.finish(make_manifest())
    artifact = load(tmp_path / "a")
    assert len(artifact.manifest.weights) == 2
    assert artifact.params.keys() == params.keys()


@pytest.mark.parametrize(
    ("dtype", "foreign", "bits", "expected"),
    [
        ("bf16", "bfloat16", np.uint16, [0x3FC0, 0xC000]),
        ("f8e4m3", "float8_e4m3fn", np.uint8, [0x3C, 0xC0]),
    ],
)
def test_bits_are_stored_from_either_kind_of_array(
    tmp_path: Path, dtype: str, foreign: str, bits: type, expected: list[int]
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -2.0], dtype=getattr(ml_dtypes, foreign))
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.add_param("named", array)
        writer.add_param("bits", array.view(bits), dtype)
        with pytest.raises(ArtifactError, match="cannot be stored"):
            writer.add_param("ambiguous", array.view(np.uint16 if bits is np.uint16 else np.void))
        with pytest.raises(ArtifactError, match="used twice"):
            writer.add_param("bits", array)
        writer.add_text("tokenizer.json", "")
        writer.add_text("plan.cpu.json", "")
        writer.add_bytes("kernels/cpu/v3.so", b"")
        writer.finish(make_manifest())
    params = load(tmp_path / "a").params
    assert params["named"].dtype == bits
    assert params["named"].tolist() == params["bits"].tolist() == expected


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_artifact(tmp_path / "deep" / "a", w=Interrupting())
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with (
        pytest.raises(ArtifactError, match=r"No space left(.|\n)*expected: 5 bytes free\n  found: \d+ bytes free"),
        ArtifactWriter(tmp_path / "a") as writer,
    ):
        writer.add_text("tokenizer.json", "12345")
    assert list(tmp_path.iterdir()) == []


def test_replacing_an_artifact_keeps_the_old_one_until_the_end(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_artifact(folder, other=np.zeros(4, np.float32), last=Interrupting())
    assert load(folder).params.keys() == PARAMS.keys()
    mapped = load(folder).params["embed"]
    write_artifact(folder, other=np.ones(4, np.float32))
    assert load(folder, verify=True).params.keys() == {"other"}
    np.testing.assert_array_equal(mapped, PARAMS["embed"])  # a running engine keeps its weights
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_links_stay_and_what_they_point_to_is_replaced(folder: Path) -> None:
    link, dangling = folder.parent / "current", folder.parent / "next"
    link.symlink_to("artifact")
    dangling.symlink_to("artifact-2")
    for path in (link, dangling):
        write_artifact(path, other=np.ones(4, np.float32))
        assert path.is_symlink()
        assert load(path.resolve(), verify=True).params.keys() == {"other"}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["artifact", "artifact-2", "current", "next"]


def test_replacing_works_without_the_exchange_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def __init__(self, *_: object, **__: object) -> None: ...
        def renameat2(self, *_: object) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", Libc)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EINVAL)
    write_artifact(folder, other=np.ones(4, np.float32))
    assert load(folder, verify=True).params.keys() == {"other"}
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_other_folders_and_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("precious", "file"):
        with pytest.raises(ArtifactError, match="is not an artifact"), ArtifactWriter(tmp_path / name):
            pass
    assert (tmp_path / "precious" / "thesis.tex").exists()
    (tmp_path / "empty").mkdir()
    write_artifact(tmp_path / "empty")
    load(tmp_path / "empty")


@pytest.mark.parametrize("name", ["../up", "/abs", "a/../../b", "", "manifest.json"])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    with ArtifactWriter(tmp_path / "a") as writer, pytest.raises(ArtifactError):
        writer.add_text(name, "x")


def damage_size(folder: Path) -> None:
    with (folder / "weights/00000.safetensors").open("r+b") as file:
        file.truncate(HEADER_BYTES)


def flip(folder: Path, name: str, at: int) -> None:
    data = bytearray((folder / name).read_bytes())
    data[at] ^= 1
    (folder / name).write_bytes(data)


CORRUPTIONS: dict[str, tuple[Any, str]] = {
    "no folder": (lambda f: f.rename(f.with_name("gone")), "is not an artifact(.|\n)*nothing at that path"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is not an artifact(.|\n)*no such file in it"),
    "a model": (
        lambda f: (f / "manifest.json").rename(f / "config.json"),
        "is not an artifact(.|\n)*not compiled yet(.|\n)*warploom compile ",
    ),
    "manifest is not JSON": (lambda f: (f / "manifest.json").write_text("{oops"), "corrupt"),
    "manifest is not UTF-8": (lambda f: (f / "manifest.json").write_bytes(b'{"a": "\xff"}'), "corrupt"),
    "manifest is empty": (lambda f: (f / "manifest.json").write_text("{}"), "format_version None"),
    "manifest is newer": (lambda f: edit_manifest(f, format_version=3, model=3), "upgrade warploom"),
    "manifest is older": (lambda f: edit_manifest(f, format_version=1, kv={}), "compile the model again"),
    "field missing": (
        lambda f: (f / "manifest.json").write_text('{"format_version": 2}'),
        "missing required field",
    ),
    "field of wrong type": (lambda f: edit_manifest(f, vocab_size="many"), r"\$.vocab_size"),
    "number out of range": (lambda f: edit_manifest(f, vocab_size=0), r"\$.vocab_size"),
    "unlisted file": (lambda f: edit_manifest(f, files={}), "does not list the file 'tokenizer.json'"),
    "file name leaves the folder": (
        lambda f: edit_manifest(
            f,
            files=json.loads((f / "manifest.json").read_text())["files"] | {"../x": {"bytes": 1, "sha256": ""}},
        ),
        "leaves the artifact",
    ),
    "file missing": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "weights missing": (lambda f: (f / "weights/00001.safetensors").unlink(), "00001.safetensors is missing"),
    "weights truncated": (damage_size, "wrong size"),
    "code changed": (lambda f: flip(f, "kernels/cpu/v3.so", 0), "changed or damaged"),
    "weights changed": (lambda f: flip(f, "weights/00000.safetensors", -1), "changed or damaged"),
}


@pytest.mark.parametrize("case", CORRUPTIONS)
def test_corruption_is_named(folder: Path, case: str) -> None:
    damage, message = CORRUPTIONS[case]
    damage(folder)
    with pytest.raises(ArtifactError, match=message):
        load(folder, verify=True)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "0 bytes"),
        (b"\xff" * 8, "header of"),
        (b"\x02" + b"\0" * 7 + b"{}", None),
        (b"\x02" + b"\0" * 7 + b"[]", "Expected `object`"),
        ('{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', "unknown dtype"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}', "at bytes 0..400"),
        ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "in 4 bytes"),
        ('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[4,0]}}', "at bytes 4..0"),
        ('{"a":{"dtype":"F32"}}', "missing required"),
    ],
)
def test_weight_headers_are_checked(folder: Path, header: bytes | str, message: str | None) -> None:
    artifact = load(folder)
    if isinstance(header, str):
        header = len(header).to_bytes(8, "little") + header.encode() + b"\0" * 4
    (folder / "weights/00000.safetensors").write_bytes(header)
    if message is None:
        assert "embed" not in artifact.params
    else:
        with pytest.raises(ArtifactError, match=message):
            _ = artifact.params


def test_a_malformed_plan_and_an_absent_target_are_named(folder: Path) -> None:
    artifact = load(folder)
    with pytest.raises(ArtifactError, match=r"no code for the target 'cuda'(.|\n)*found: cpu"):
        artifact.plan("cuda")
    (folder / "plan.cpu.json").write_text('{"entries": 3}')
    with pytest.raises(ArtifactError, match=r"malformed(.|\n)*entries"):
        artifact.plan("cpu")


def test_a_signal_while_the_folder_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Path.mkdir

    def interrupted(self: Path, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), ArtifactWriter(tmp_path / "artifact"):
        pytest.fail("it was entered")
    assert list(tmp_path.iterdir()) == []
