"""`diff` names what two artifacts or programs differ in; `reduce` leaves little more than the bug."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import warploom
from warploom import passes
from warploom.ir.context import new_context
from warploom.tools.cli import main
from warploom.tools.program_files import read_program
from warploom.tools.reducer import num_ops

PASS = '''
"""A pass with a bug: it takes every SwiGLU for a product."""

from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.elementwise import mul
from warploom.ir.rewrite import before, entries, is_op, replace


def forget_the_gate(module):
    """Replace swiglu by mul."""
    for function in entries(module):
        for operation in function.ops:
            if is_op(operation, swiglu):
                with before(operation):
                    replace(operation, [mul(*operation.operands)])
'''


@pytest.fixture
def trace(tiny_artifact: Path) -> Path:
    return next(tiny_artifact.rglob("00-*.mlir"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_diff_of_programs_counts_ops_and_shows_lines(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged = next(trace.parent.glob("*-merge_linears.mlir"))
    found = printed(capsys, "diff", trace, merged, "--text")
    rows = {row["what"]: (row["left"], row["right"]) for row in found["differences"]}
    assert rows["@step wl.linear"] == ("15", "9")  # two layers: q, k, v and gate, up
    assert rows["@step wl.slice"] == ("-", "10")
    changed = [line for line in found["lines"] if line[0] in "+-"]
    assert any(line.startswith("+") and "wl.concat" in line for line in changed)
    assert not any("wl.attention" in line for line in changed), "what only has other names is the same"


def test_diff_of_equal_programs_is_empty(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(trace), str(trace), "--text"]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_diff_of_programs_sees_what_counts_of_ops_do_not(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = trace.read_text()
    names = [f"layers.{layer}.mlp.gate_proj.weight" for layer in "01"]
    swapped = text.replace(names[0], "...").replace(names[1], names[0]).replace("...", names[1])
    gate = next(line for line in text.splitlines() if '"wl.swiglu"(%' in line)
    a, b = gate.split("(")[1].split(")")[0].split(", ")
    for other in (
        text.replace("1.000000e-05", "2.000000e-05"),  # an attribute
        swapped,  # which weight
        text.replace(gate, gate.replace(f"({a}, {b})", f"({b}, {a})")),  # which of two values of one kind
    ):
        assert other != text
        (tmp_path / "other.mlir").write_text(other)
        found = printed(capsys, "diff", trace, tmp_path / "other.mlir", "--text")
        assert [row["what"] for row in found["differences"]] == ["lines that differ"]
        assert {line[0] for line in found["lines"]} >= {"+", "-"}


def test_diff_of_an_artifact_and_a_program_is_refused(
    trace: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sides in ((trace, tiny_artifact), (tiny_artifact, trace)):
        assert main(["diff", *map(str, sides)]) == 2
        assert "two artifacts, or two programs" in capsys.readouterr().err
    assert main(["diff", str(tiny_artifact), str(tiny_artifact), "--text"]) == 2
    assert "--text is of programs" in capsys.readouterr().err


def test_diff_names_a_target_that_one_side_lacks_once(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_artifact, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["targets"]["cuda:sm_90"] = manifest["targets"]["cpu"] | {"plan": "plan.cuda.sm_90.json"}
    for name in ("ir/cuda.sm_90/00-trace.mlir", "kernels/cuda/sm_90/embed.cubin", "plan.cuda.sm_90.json"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"")
        manifest["files"][name] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    found = printed(capsys, "diff", tiny_artifact, copy)["differences"]
    assert found == [{"where": "target", "what": "cuda:sm_90", "left": "-", "right": "yes"}]


def test_diff_of_artifacts_goes_from_manifest_to_launches(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_artifact, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["max_context"] = 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    found = printed(capsys, "diff", tiny_artifact, copy)["differences"]
    assert found == [{"where": "manifest", "what": "max_context", "left": "128", "right": "64"}]


def test_diff_makes_no_dummy_weights(
    tiny_artifact: Path, wide_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dummy = warploom.load(wide_artifact)
    tracemalloc.start()
    found = printed(capsys, "diff", tiny_artifact, dummy.path)["differences"]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 27 < 1 << 30 < sum(math.prod(p.shape) for p in dummy.manifest.random_params.values())
    weights = {row["what"]: row["right"] for row in found if row["where"] == "weight"}
    assert sum("made up" in text for text in weights.values()) == len(dummy.manifest.random_params)
    kernels = [row["what"] for row in found if row["where"] == "file" and row["what"].startswith("kernels/")]
    assert kernels
    assert all(name.endswith(".*") for name in kernels), "all forms of a kernel are one row"


def test_reduce_by_command_leaves_what_the_command_asks_for(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.mlir"
    assert main(["reduce", str(trace), "--command", "grep -q wl.attention {}", "-o", str(out)]) == 0
    with new_context():
        module = read_program(str(out))
        assert num_ops(module) == 1
        assert '"wl.attention"' in str(module)


def test_reduce_by_property_leaves_the_op_that_a_pass_breaks(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forgetful" / "passes").mkdir(parents=True)
    (tmp_path / "forgetful" / "__init__.py").touch()
    (tmp_path / "forgetful" / "passes" / "forget_the_gate.py").write_text(PASS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("warploom.passes.__path__", [*passes.__path__])
    out = tmp_path / "small.mlir"
    arguments = ["--plugin", "forgetful", "--pass", "forget_the_gate", "--property", "meaning", "-o", str(out)]
    assert main(["reduce", str(trace), *arguments]) == 0
    with new_context():
        module = read_program(str(out))
        assert num_ops(module) <= 2
        assert '"wl.swiglu"' in str(module)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--pass", "simplify"], "does not fail"),
        (["--pass", "nonsense"], "there is no pass"),
        (["--pass", "simplify", "--property", "beauty"], "verify, text, idempotent, meaning"),
        (["--command", "true"], "where the program goes"),
    ],
)
def test_reduce_names_what_is_wrong(
    trace: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reduce", str(trace), *arguments]) == 2
    assert complaint in capsys.readouterr().err
