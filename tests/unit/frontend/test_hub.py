"""Hub models from a cache that the test lays out; nothing here reaches a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.unit.frontend.tiny_checkpoints import tiny_config, tiny_tensors, tiny_tokenizer
from warploom.errors import ModelNotFoundError
from warploom.frontend.hub import fetch_model, is_hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def snapshot(cache: Path, model_id: str) -> Path:
    """An empty snapshot of `model_id` in a cache folder, in huggingface_hub's layout."""
    repository = cache / f"models--{model_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


def run_offline(home: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program whose huggingface_hub has `home` and no network (it reads the environment on import)."""
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def test_cached_model_is_opened_offline(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "hub", "somebody/tiny")
    (folder / "config.json").write_text(json.dumps(tiny_config()))
    (folder / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    save_file(tiny_tensors(), folder / "model.safetensors")
    result = run_offline(
        tmp_path,
        "from warploom.frontend.checkpoint import open_checkpoint\n"
        "checkpoint = open_checkpoint('somebody/tiny')\n"
        "print(checkpoint.model_id, checkpoint.tensors['model.norm.weight'].load().sum().item())",
    )
    expected = tiny_tensors()["model.norm.weight"].sum().item()
    assert result.stdout.split() == ["somebody/tiny", str(expected)], result.stderr


def test_offline_with_nothing_cached_says_what_to_do(tmp_path: Path) -> None:
    result = run_offline(
        tmp_path,
        "from warploom.errors import ModelNotFoundError\n"
        "from warploom.frontend.checkpoint import open_checkpoint\n"
        "try: open_checkpoint('somebody/absent')\n"
        "except ModelNotFoundError as error: print(error)",
    )
    assert "somebody/absent is not in the local cache" in result.stdout, result.stderr
    assert "unset HF_HUB_OFFLINE" in result.stdout
    assert str(tmp_path) in result.stdout


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replaces the download: what is asked for is recorded, and `tmp_path` is the answer."""
    import huggingface_hub

    asked: list[list[str]] = []

    def fake_download(model_id: str, *, revision: str | None, allow_patterns: list[str], tqdm_class: type) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake_download)
    return asked


def test_safetensors_are_asked_for_and_then_no_pickles(tmp_path: Path, served: list[list[str]]) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert fetch_model("somebody/tiny") == tmp_path
    (patterns,) = served
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(patterns)
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in patterns)


def test_pickles_are_asked_for_when_there_are_no_safetensors(served: list[list[str]]) -> None:
    fetch_model("somebody/tiny")
    assert "pytorch_model.bin" not in served[0]
    assert "pytorch_model.bin" in served[1]


def raise_on_download(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import huggingface_hub

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


def hub_error(name: str) -> Exception:
    """An error of huggingface_hub as it raises it, without the HTTP response that its constructor wants."""
    from huggingface_hub import errors

    kind = getattr(errors, name)
    error: Exception = kind.__new__(kind, "answered 4xx")
    error.args = ("answered 4xx",)
    return error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RepositoryNotFoundError", "the hub has no model somebody/tiny"),
        ("RevisionNotFoundError", "the hub has no model somebody/tiny"),
        ("HFValidationError", "the hub has no model somebody/tiny"),
        ("GatedRepoError", "restricted by its owner"),
        ("LocalEntryNotFoundError", "the hub cannot be reached"),
        ("HfHubHTTPError", "did not serve"),
    ],
)
def test_hub_errors_become_ours(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    raise_on_download(monkeypatch, hub_error(name))
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        fetch_model("somebody/tiny")
    assert caught.value.fix


def test_broken_download_says_that_it_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_on_download(monkeypatch, OSError("No space left on device"))
    with pytest.raises(ModelNotFoundError, match="No space left on device") as caught:
        fetch_model("somebody/tiny")
    assert "kept" in str(caught.value.fix)


def test_a_revision_is_named_behind_the_model(tmp_path: Path) -> None:
    snapshot(tmp_path / "hub", "somebody/tiny").rename(tmp_path / "hub/models--somebody--tiny/snapshots/v2")
    (tmp_path / "hub/models--somebody--tiny/refs/refs/pr").mkdir(parents=True)
    (tmp_path / "hub/models--somebody--tiny/refs/refs/pr/1").write_text("v2")
    program = "from warploom.frontend.hub import fetch_model; print(fetch_model('somebody/tiny@refs/pr/1').name)"
    assert run_offline(tmp_path, program).stdout == "v2\n"
    missing = run_offline(tmp_path, program.replace("pr/1", "pr/2")).stderr
    assert "somebody/tiny@refs/pr/2 is not in the local cache" in missing


@pytest.mark.parametrize(
    "text", ["gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b.c_d-e", "a/b@v1.0", "a/b@refs/pr/3"]
)
def test_hub_ids(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize("text", ["", "/a/b", "a/b/c", "./a", "../a", "~/a", "a b", "a/", "a\\b", "folder/m.gguf"])
def test_what_is_no_hub_id(text: str) -> None:
    assert not is_hub_id(text)


def test_progress_reports_reach_the_display() -> None:
    from rich.progress import Progress

    from warploom.frontend.hub_progress import _bar_class

    progress = Progress(disable=True)
    bar = _bar_class(progress)(desc="model.safetensors", total=0, unit="B", unit_scale=True)
    bar.total = 100
    bar.update(40)
    bar.set_description("weights")
    bar.refresh()
    (task,) = progress.tasks
    assert (task.completed, task.total, task.description.rstrip(": ")) == (40, 100, "weights")
    bar.update(60)
    bar.close()
    assert task.finished
    assert task.percentage == 100
