"""`compile` as a program."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.frontend.tiny_checkpoints import tiny_config
from tests.unit.tools.conftest import RunCLI, write_tiny_model
from warploom.tools.cli import main
from warploom.tools.compile import program


def test_compile_json_tells_where_the_artifact_is(run_cli: RunCLI, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny-llama")
    out = tmp_path / "out"
    flags = ("--quantization", "int8", "--max-context", "64", "--json")
    result = run_cli("compile", model, "-o", out, *flags)
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["path"], report["quantization"], report["max_context"]) == (str(out), "int8", 64)
    assert report["seconds"] > 0
    answer = run_cli("generate", out, "hello", "--max-tokens", "3", "--json")
    assert json.loads(answer.stdout)["completions"]


def test_dummy_weights_need_a_config_only(run_cli: RunCLI, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(json.dumps(tiny_config()))
    out = tmp_path / "out"
    flags = ("--dummy-weights", "--quantization", "int8", "--json")
    result = run_cli("compile", tmp_path / "config", "-o", out, *flags)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["bytes"]["weights"] == 0
    answers = [run_cli("generate", out, "hello", "--max-tokens", "8", "--json").stdout for _ in range(2)]
    first, second = (json.loads(answer)["completions"][0]["token_ids"] for answer in answers)
    assert first == second
    assert len(first) == 8


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere/at/all.gguf"], "nowhere/at/all.gguf"),
        (["x", "--target", "tpu"], "tpu"),
        (["{model}", "--max-context", "100000"], "max_context"),
        (["{model}", "-o", "{model}"], "is not an artifact"),
        (["{model}", "--quantization", "int4:awq", "--calibration", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["{model}", "--quantization", "int4:awq", "--calibration", sys.executable], "UTF-8 text"),
    ],
)
def test_bad_input_exits_with_2_and_leaves_nothing(
    run_cli: RunCLI, tmp_path: Path, arguments: list[str], named: str
) -> None:
    model = write_tiny_model(tmp_path / "tiny-llama")
    before = sorted(tmp_path.rglob("*"))
    filled = [argument.format(model=model) for argument in arguments]
    out = [] if "-o" in filled else ["-o", str(tmp_path / "out")]
    result = run_cli("compile", *filled, *out)
    assert (result.returncode, result.stdout) == (2, "")
    assert named in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_compilation_that_is_ended_leaves_nothing(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    model = write_tiny_model(tmp_path / "tiny-llama")
    command = [sys.executable, "-m", "warploom.tools.cli", "compile", str(model), "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not any(tmp_path.glob(".out.*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signum)
        assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == code
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-llama"]


def test_the_last_line_can_be_copied_into_a_shell(run_cli: RunCLI, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny-llama")
    printed = run_cli("compile", model, "-o", tmp_path / "ünï 🧵").stdout.splitlines()[-1]
    _, program, command, artifact, *_ = shlex.split(printed)
    assert (program, command, artifact) == ("warploom", "generate", str(tmp_path / "ünï 🧵"))


@pytest.mark.parametrize(
    ("called", "found", "shown"),
    [
        (".venv/bin/warploom", None, ".venv/bin/warploom"),
        (".venv/bin/warploom", "/usr/bin/warploom", "warploom"),
        ("tools/cli.py", None, "warploom"),
    ],
)
def test_the_command_is_named_as_it_can_be_called(
    monkeypatch: pytest.MonkeyPatch, called: str, found: str | None, shown: str
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(shutil, "which", lambda name: found)
    assert program() == shown


def test_a_serving_install_says_what_compiling_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "warploom.compiler", raising=False)
    monkeypatch.setitem(sys.modules, "mlir.ir", None)  # as if it were not installed
    assert main(["compile", "anything"]) == 2
    assert "pip install 'warploom[compile]'" in capsys.readouterr().err
