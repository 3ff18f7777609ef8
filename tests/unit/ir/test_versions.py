"""Texts of other versions of the dialect: read with the meaning that they had, or refused by name."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from warploom.errors import IRError
from warploom.ir.context import VERSION, parse, print_module, version_of
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate
from warploom.ir.ops.attention import attention
from warploom.ir.verify import verify
from warploom.passes.decompose import decompose
from warploom.tools.cli import main

OLD = Path(__file__).with_name("attention_of_version_1.mlir")
TEXT = OLD.read_text()


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = {"q": (3, 5, 16), "kv": (2, 2, 2, 1, 1024)}
    floats = {name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in numbers.items()}
    rows = {"page_table": [[1, 0]], "query_start": [0, 3], "context_lens": [70]}
    return floats | {name: np.array(value, np.int32) for name, value in rows.items()}


@pytest.mark.usefixtures("wl")
def test_an_older_program_means_what_it_meant() -> None:
    module = parse(TEXT)
    verify(module)
    (operation,) = functions(module)["step"].ops
    assert attention.attrs_of(operation)["alibi"] == 0.0
    today = TEXT.replace("k_layout =", "alibi = 0.000000e+00 : f64, k_layout =")
    expected = evaluate(parse(today), "step", inputs())["y"]
    np.testing.assert_array_equal(evaluate(module, "step", inputs())["y"], expected)
    decompose(module)
    verify(module)


@pytest.mark.usefixtures("wl")
def test_what_is_printed_says_its_version_and_is_read_again() -> None:
    assert version_of(TEXT) == 1
    printed = print_module(parse(TEXT))
    assert version_of(printed) == VERSION
    assert print_module(parse(printed)) == printed


@pytest.mark.usefixtures("wl")
def test_a_newer_program_is_refused_before_it_is_read() -> None:
    text = TEXT.replace("module {", f"module attributes {{wl.version = {VERSION + 1} : i64}} {{")
    with pytest.raises(IRError, match="newer version") as caught:
        parse(text)
    assert (str(VERSION) in str(caught.value.expected), str(VERSION + 1) in str(caught.value.found)) == (True, True)


@pytest.mark.usefixtures("wl")
def test_an_older_program_that_is_not_read_any_more_names_both_versions() -> None:
    with pytest.raises(IRError, match="does not parse") as caught:
        parse(TEXT.replace("wl.attention", "wl.attention_as_it_was"))
    assert (f"version {VERSION}" in str(caught.value.expected), "version 1" in str(caught.value.fix)) == (True, True)
    with pytest.raises(IRError) as caught:
        parse(f"module attributes {{wl.version = {VERSION} : i64}} {{ nonsense }}")
    assert caught.value.what == "the program does not parse"
    assert "nonsense" in str(caught.value.found)


@pytest.mark.parametrize(
    "command", [["opt", "simplify"], ["run", "--dims", "P=2,S=2,C=4"], ["inspect"]], ids=lambda c: c[0]
)
def test_tools_read_an_older_program(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name, *arguments = command
    assert main([name, str(OLD), *arguments]) == 0
    assert capsys.readouterr().out
