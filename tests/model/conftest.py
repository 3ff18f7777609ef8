"""The real model that these tests run on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.model.oracle import Oracle
from warploom.compiler import compile
from warploom.frontend.quickstart_model import fetch_smollm2_gguf
from warploom.runtime.artifact import Artifact, load

MODELS = Path(__file__).resolve().parents[2] / ".warploom" / "models"


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as a Q4_1 GGUF file: WARPLOOM_SMOLLM2 if set, else downloaded once into the repository."""
    given = os.environ.get("WARPLOOM_SMOLLM2")
    return Path(given) if given else fetch_smollm2_gguf(MODELS)


@pytest.fixture(scope="session")
def compiled_smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """SmolLM2 compiled with a given quantization, once for all test processes."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def artifact(quantization: str) -> Artifact:
        path = shared / f"smollm2-{quantization}"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                compile(smollm2_gguf, quantization=quantization, out=path)
        return load(path)

    return artifact


@pytest.fixture(scope="session")
def oracle(smollm2_gguf: Path) -> Oracle:
    """transformers with the same weights."""
    return Oracle(smollm2_gguf)
