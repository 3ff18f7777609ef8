"""The real model behind the real server, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from warploom.runtime.artifact import Artifact

Compile = Callable[[str], Artifact]
MODEL = "smollm2"


class ServerProcess:
    """`warploom serve` with further arguments, ready to answer. `url` is without a slash at the end."""

    def __init__(self, artifact: Path, *arguments: str) -> None:
        command = [sys.executable, "-W", "error", "-m", "warploom.tools.cli", "serve", str(artifact), "--port", "0"]
        command += ["--model-name", MODEL, "--threads", "1", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line.startswith("serving "), line + self.process.stderr.read()
        self.url = line.split()[-1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End it; returns exit code and what it wrote."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture(scope="session")
def served(compiled_smollm2: Compile) -> Iterator[ServerProcess]:
    """SmolLM2 with bf16 weights, which are fast."""
    server = ServerProcess(compiled_smollm2("bf16").path, "--max-num-seqs", "8")
    yield server
    assert server.stop() == (0, "")


@pytest.fixture(scope="session")
def served_exactly(compiled_smollm2: Compile) -> Iterator[ServerProcess]:
    """SmolLM2 with f32 weights, to be compared with transformers."""
    server = ServerProcess(compiled_smollm2("f32").path)
    yield server
    assert server.stop() == (0, "")
