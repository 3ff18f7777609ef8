"""What long commands tell on a terminal, and nowhere else."""

from __future__ import annotations

import io

import pytest

from warploom.tools.status import counted, status


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_last_text_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with status() as show:
        told = counted(show, "requests answered")
        told(1, 9)
        told(2, 9)
    erase = "\r\033[K"
    assert terminal.getvalue() == f"{erase}1 of 9 requests answered{erase}2 of 9 requests answered{erase}"


def test_what_is_no_terminal_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with status() as show:
        show("busy")
    assert capsys.readouterr() == ("", "")
