"""The artifact: one folder with all that serving a model needs. Checked when loaded, published whole.

    manifest.json            what is inside, for which machines, and every file's size and sha256
    plan.<target>.json       buffers and launches (see `plan`)
    kernels/<target>/        native code and its readable sources
    ir/<target>/             the module after each stage
    weights/*.safetensors    packed parameters, memory-mapped when served
    tokenizer.json, chat_template.jinja

Paths inside the manifest are relative, with forward slashes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import msgspec
from numpy.typing import NDArray

from warploom.errors import ArtifactError
from warploom.runtime.manifest import FORMAT_VERSION, MANIFEST_FILE, FileInfo, Manifest, RandomParam, TargetInfo
from warploom.runtime.noise import random_param
from warploom.runtime.plan import Plan
from warploom.runtime.publish import publish
from warploom.runtime.weights import WeightsWriter, read_weights
from warploom.version import __version__

_AGAIN = "copy the artifact again, or compile the model again"


class Artifact:
    """A loaded artifact. Parameters and plans are read on first use; `path` must stay in place meanwhile."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r}, model={self.manifest.model.id!r})"

    def read_text(self, name: str) -> str:
        """Return the text of one file of the folder."""
        return (self.path / name).read_text(encoding="utf-8")

    def target(self, name: str) -> TargetInfo:
        """Return what the artifact holds for one target; ArtifactError if it holds nothing for it."""
        if name not in self.manifest.targets:
            raise ArtifactError(
                f"The artifact {self.path} has no code for the target {name!r}",
                expected=f"target {name!r}",
                found=", ".join(self.manifest.targets) or "no targets",
                fix="choose one of those that are found, or compile the model for the other too",
            )
        return self.manifest.targets[name]

    def plan(self, target: str) -> Plan:
        """Return the launch plan of one target; ArtifactError if it is absent or malformed."""
        path = self.path / self.target(target).plan
        try:
            return msgspec.json.decode(path.read_bytes(), type=Plan)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArtifactError(f"The plan {path} is malformed", found=str(error), fix=_AGAIN) from error

    @cached_property
    def stored_params(self) -> dict[str, NDArray[Any]]:
        """The parameters that have data, by name: read-only arrays over memory-mapped files, bf16 as uint16."""
        merged: dict[str, NDArray[Any]] = {}
        for name in self.manifest.weights:
            merged |= read_weights(self.path / name)
        return merged

    @cached_property
    def params(self) -> Mapping[str, NDArray[Any]]:
        """All parameters by name; a random one is made, in memory, when it is first asked for."""
        return _Params(self.stored_params, self.manifest.random_params)


class _Params(Mapping[str, NDArray[Any]]):
    def __init__(self, stored: Mapping[str, NDArray[Any]], random: Mapping[str, RandomParam]) -> None:
        self._random, self._stored = random, stored
        self._made: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._random:
            return self._stored[name]
        if name not in self._made:
            self._made[name] = random_param(self._random[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return chain(self._random, self._stored)

    def __len__(self) -> int:
        return len(self._random) + len(self._stored)


def ir_folder(target: str) -> str:
    """Return where an artifact keeps the stages of the program for a target."""
    return f"ir/{target.replace(':', '.')}"


def load(path: str | os.PathLike[str], *, verify: bool = False) -> Artifact:
    """Open an artifact and check that it is whole and that this runtime can read it.

    Every file's size is checked, and the sha256 of every file but the weights.

    Args:
        verify: also check the sha256 of the weights, which reads them all.

    Raises:
        ArtifactError: the manifest is missing, corrupt, or of another format version; a file is missing or
            differs from what the manifest says.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    named = [manifest.tokenizer.file, manifest.tokenizer.chat_template, *manifest.weights]
    for target in manifest.targets.values():
        named += [target.plan, *(variant.file for variant in target.variants)]
    for name in named:
        if name is not None and name not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST_FILE} does not list the file {name!r}", fix=_AGAIN)
    for name, info in manifest.files.items():
        _check_file(folder, name, info, hashed=verify or name not in manifest.weights)
    return Artifact(folder, manifest)


def _read_manifest(folder: Path) -> Manifest:
    """Decode the manifest, its format version first: a newer one may have other fields."""
    path = folder / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _no_artifact(folder) from error
    try:
        version = msgspec.json.decode(text, type=dict[str, Any]).get("format_version")
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            raise ArtifactError(
                f"The artifact {folder} has a format version that this runtime does not read",
                expected=f"format_version {FORMAT_VERSION} (warploom {__version__})",
                found=f"format_version {version}",
                fix="upgrade warploom" if newer else "compile the model again",
            )
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"The manifest {path} is corrupt", found=str(error), fix=_AGAIN) from error


def _no_artifact(folder: Path) -> ArtifactError:
    """What is there instead; a model that was not compiled is told apart."""
    is_model = folder.suffix == ".gguf" if folder.is_file() else (folder / "config.json").is_file()
    found = "a file" if folder.is_file() else "no such file in it" if folder.is_dir() else "nothing at that path"
    return ArtifactError(
        f"{folder} is not an artifact",
        expected=f"a folder with {MANIFEST_FILE}",
        found="a model that is not compiled yet" if is_model else found,
        fix=f"warploom compile {folder}" if is_model else "give the path that `warploom compile` printed",
    )


def _check_file(folder: Path, name: str, info: FileInfo, hashed: bool) -> None:
    path = folder / _inside(name)
    if not path.is_file():
        raise ArtifactError(f"The artifact's file {path} is missing", fix=_AGAIN)
    size = path.stat().st_size
    if size != info.bytes:
        raise ArtifactError(
            f"The artifact's file {path} has the wrong size",
            expected=f"{info.bytes} bytes",
            found=f"{size} bytes",
            fix=_AGAIN,
        )
    if hashed and (digest := _sha256(path)) != info.sha256:
        raise ArtifactError(
            f"The artifact's file {path} has been changed or damaged",
            expected=f"sha256 {info.sha256}",
            found=f"sha256 {digest}",
            fix=_AGAIN,
        )


def _inside(name: str) -> PurePosixPath:
    """Return `name` as a path that stays inside the artifact's folder."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name or name == MANIFEST_FILE:
        raise ArtifactError("A file name leaves the artifact's folder or is reserved", found=repr(name))
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ArtifactWriter:
    """Writes an artifact beside its final path and moves it there whole, by `finish`.

        with ArtifactWriter(path) as writer:
            writer.add_text("ir/cpu/00-trace.mlir", text)
            writer.add_param("layers.0.qkv", array)
            writer.finish(manifest)

    Leaving the block without `finish`, by an exception or not, leaves nothing behind. An artifact that is
    already at `path` is replaced by `finish` in one step; anything else there is refused.

    Args:
        path: the artifact's folder; missing parents are made, and a link stays one to what it points to.
        shard_bytes: largest data size of one weight shard.

    Raises:
        ArtifactError: `path` holds something that is not an artifact; the disk is full or not writable.
    """

    def __init__(self, path: str | os.PathLike[str], *, shard_bytes: int = 4 << 30) -> None:
        self.path = Path(os.path.realpath(path))
        self._temporary = self.path.parent / f".{self.path.name}.{secrets.token_hex(4)}.tmp"
        self._weights = WeightsWriter(self._temporary / "weights", shard_bytes)

    def __enter__(self) -> ArtifactWriter:
        self._check_replaceable()
        try:
            with self._disk(0):
                (self._temporary / "weights").mkdir(parents=True)
        except BaseException:  # a signal may come between the folder and the end of this
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._weights.discard()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add_bytes(self, name: str, data: bytes) -> None:
        """Add one file."""
        self._write(self._temporary / _inside(name), data)

    def add_text(self, name: str, text: str) -> None:
        """Add one UTF-8 file."""
        self.add_bytes(name, text.encode())

    def add_file(self, name: str, source: str | os.PathLike[str]) -> None:
        """Add a copy of the file `source`, which is expected to fit in memory."""
        self.add_bytes(name, Path(source).read_bytes())

    def add_param(self, name: str, array: NDArray[Any], dtype: str | None = None) -> None:
        """Append one packed parameter; see `WeightsWriter.add`."""
        with self._disk(array.nbytes):
            self._weights.add(name, array, dtype)

    def finish(self, manifest: Manifest) -> None:
        """Publish the folder with `manifest`, whose versions, `weights` and `files` are filled in here."""
        root = self._temporary
        with self._disk(0):
            self._weights.close()
            files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
            manifest = msgspec.structs.replace(
                manifest,
                format_version=FORMAT_VERSION,
                warploom_version=__version__,
                weights=[path.relative_to(root).as_posix() for path in self._weights.paths],
                files={name: FileInfo(path.stat().st_size, _sha256(path)) for name, path in files.items()},
            )
        self._write(root / MANIFEST_FILE, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        self._check_replaceable()
        with self._disk(0):
            publish(root, self.path)

    def _write(self, path: Path, data: bytes) -> None:
        with self._disk(len(data)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def _check_replaceable(self) -> None:
        path = self.path
        empty = path.is_dir() and not any(path.iterdir())
        if path.exists() and not empty and not (path / MANIFEST_FILE).is_file():
            raise ArtifactError(
                f"{path} exists and is not an artifact, so it is not overwritten",
                expected="a new path, an empty folder, or an artifact to replace",
                found="a folder with other files" if path.is_dir() else "a file",
                fix="choose another path, or remove it yourself",
            )

    @contextlib.contextmanager
    def _disk(self, needed: int) -> Iterator[None]:
        """Turn the disk's errors into an ArtifactError that names the bytes needed now and those free."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            parent = self.path.parent
            free = shutil.disk_usage(parent).free if parent.exists() else 0
            raise ArtifactError(
                f"The artifact {self.path} cannot be written: {error.strerror}",
                expected=f"{needed} bytes free" if full else f"a writable folder {parent}",
                found=f"{free} bytes free" if full else str(error),
                fix="free some space, or write to another disk" if full else "choose another path",
            ) from error
