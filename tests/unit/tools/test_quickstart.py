"""`tools/quickstart` names what a machine lacks, before it changes anything."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "tools" / "quickstart"
BASICS = ("dirname", "realpath", "uname", "cmp", "cat", "env")


class Machine:
    """A clone and a PATH that hold only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.programs = folder / "clone", folder / "bin"
        (self.clone / "tools").mkdir(parents=True)
        shutil.copy(SCRIPT, self.clone / "tools" / "quickstart")
        (self.clone / "pyproject.toml").touch()
        self.programs.mkdir()
        for name in BASICS:
            (self.programs / name).symlink_to(str(shutil.which(name)))

    def add(self, name: str, body: str) -> None:
        """Put a shell script on the PATH."""
        program = self.programs / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)

    def quickstart(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        command = ["/bin/bash", str(self.clone / "tools" / "quickstart"), *arguments]
        return subprocess.run(
            command, env={"PATH": str(self.programs)}, capture_output=True, text=True, timeout=60, check=False
        )

    def lacks(self, *named: str) -> None:
        """Check that the script refuses, names these, and leaves the clone as it is."""
        before = sorted(self.clone.rglob("*"))
        result = self.quickstart()
        assert (result.returncode, result.stdout) == (2, "")
        assert all(name in result.stderr for name in named), result.stderr
        assert sorted(self.clone.rglob("*")) == before


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that runs Linux on x86-64 and has nothing."""
    machine = Machine(tmp_path)
    (machine.programs / "uname").unlink()
    machine.add("uname", "echo Linux x86_64")
    return machine


def test_without_python(machine: Machine) -> None:
    machine.lacks("Python 3.11", "apt-get install python3")


def test_with_an_old_python(machine: Machine) -> None:
    machine.add("python3", 'case "$2" in *version_info*) exit 1;; esac')
    machine.lacks("Python 3.11")


def test_without_venv(machine: Machine) -> None:
    machine.add("python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    machine.lacks("venv", "apt-get install python3-venv")


def test_without_a_compiler(machine: Machine) -> None:
    machine.add("python3", "exit 0")
    machine.lacks("C compiler", "apt-get install gcc libc6-dev")


def test_without_headers(machine: Machine) -> None:
    machine.add("python3", "exit 0")
    machine.add("cc", "exit 1")
    machine.lacks("headers", "apt-get install libc6-dev")


def test_on_another_machine(machine: Machine) -> None:
    machine.add("python3", "exit 0")
    machine.add("uname", "echo Darwin arm64")
    machine.lacks("Darwin arm64", "Linux x86_64")


def test_wrong_options_and_help(machine: Machine) -> None:
    result = machine.quickstart("--promt", "x")
    assert result.returncode == 2
    assert "--promt" in result.stderr
    assert "--prompt" in machine.quickstart("--help").stdout
