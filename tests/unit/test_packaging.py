"""What a wheel holds: every package, and every file that is no Python but is read at run time."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}
NOT_READ = {"*.md", "*.mlir", "quickstart", "test", "nightly"}  # for people, and for a clone


def folder_of(package: str) -> Path:
    room = max((name for name in FOLDERS if f"{package}.".startswith(f"{name}.")), key=len)
    return FOLDERS[room].joinpath(*package.removeprefix(room).strip(".").split("."))


def test_every_package_is_listed() -> None:
    found = {
        ".".join((room, *path.parent.relative_to(folder).parts))
        for room, folder in FOLDERS.items()
        for path in folder.rglob("*.py")
        if folder in (path.parent, *path.parent.parents)
    }
    assert found == set(SETUPTOOLS["packages"])


def test_every_data_file_is_packaged() -> None:
    packaged = {
        path
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for path in folder_of(package).glob(pattern)
    }
    data = {
        path
        for folder in FOLDERS.values()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not any(fnmatch(path.name, n) for n in NOT_READ)
    }
    assert data == packaged
