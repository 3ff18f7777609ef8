"""`inspect`: its views agree with the artifact's own files, as tables and as JSON."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import warploom
from tests.unit.tools.conftest import RunCLI
from warploom.runtime.plan import DimRange, Entry, Guard, Launch
from warploom.tools.cli import main
from warploom.tools.fusion_log import FusionDecision, fusion_decisions
from warploom.tools.inspection import VIEWS
from warploom.tools.reports import running
from warploom.tools.table import count, size


@pytest.fixture
def view(tiny_artifact: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What `inspect ... --json` prints, decoded."""

    def inspect(*arguments: str) -> Any:
        assert main(["inspect", str(tiny_artifact), *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return inspect


def test_the_summary_counts_every_byte(view: Any, tiny_artifact: Path) -> None:
    summary = view("--verify")
    on_disk = sum(path.stat().st_size for path in tiny_artifact.rglob("*") if path.is_file())
    assert summary["bytes"]["total"] == on_disk - (tiny_artifact / "manifest.json").stat().st_size
    assert summary["max_context"] == 128
    assert summary["kv_bytes_per_token"] == 2 * 2 * 2 * 64 * 4  # layers, K and V, heads, head_dim, f32
    assert summary["chat"] is True


def test_kernels_are_those_of_the_plan(view: Any, tiny_artifact: Path) -> None:
    plan = warploom.load(tiny_artifact).plan("cpu")
    rows = view("kernels")
    assert {row["kernel"] for row in rows} == set(plan.kernels)
    assert sum(row["launches"] for row in rows) == sum(len(entry.launches) for entry in plan.entries.values())
    assert any(row["kind"] == "attention" and row["location"] == "model.layers.0.self_attn" for row in rows)


def test_work_grows_with_the_tokens(view: Any) -> None:
    def linear_flops(*arguments: str) -> int:
        return sum(row["flops"] for row in view("kernels", *arguments) if row["location"].endswith("mlp"))

    assert linear_flops("--dims", "T=10") == 10 * linear_flops() > 0


def test_weights_memory_and_plan(view: Any, tiny_artifact: Path) -> None:
    params = warploom.load(tiny_artifact).params
    assert {row["weight"]: row["bytes"] for row in view("weights")} == {
        name: array.nbytes for name, array in params.items()
    }
    memory = {row["memory"]: row["bytes"] for row in view("memory", "--dims", "T=64,R=2")}
    assert memory["KV cache, one page of 16 tokens"] == 16 * memory["KV cache, one token"]
    assert any("@step" in name and "T=64" in name for name in memory)
    launches = [row for row in view("plan") if row["entry"] == "step"]
    assert launches[0]["location"] == "model.embed_tokens"
    assert launches[-1]["location"] == "lm_head"


def test_ops_of_a_stage_and_of_its_file_are_the_same(
    view: Any, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ops = view("ops", "00-trace")
    assert {(row["op"], row["times"]) for row in ops} >= {("attention", 2), ("linear", 2 * 7 + 1)}
    file = tiny_artifact / "ir" / "cpu" / "00-trace.mlir"
    assert main(["inspect", str(file), "ops", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ops
    assert main(["inspect", str(file), "--json"]) == 0
    step = next(row for row in json.loads(capsys.readouterr().out) if row["entry"] == "step")
    assert (step["calls"], step["ops"]) == (0, sum(row["times"] for row in ops if row["entry"] == "step"))
    fused = [row for row in view("ops") if row["entry"] == "step"]
    assert all(row["detail"] or row["op"] == "reshape" for row in fused), "after the last pass all is in groups"


def test_dummy_weights_are_counted_and_never_made(wide_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracemalloc.start()
    shown = {}
    for name in ("summary", "weights", "memory"):
        assert main(["inspect", str(wide_artifact), name, "--json"]) == 0
        shown[name] = json.loads(capsys.readouterr().out)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    total = sum(row["bytes"] for row in shown["weights"])
    assert total > 1 << 30 > 16 * most
    assert total == shown["summary"]["dummy_bytes"] == shown["memory"][0]["bytes"]


def test_fusion_tells_what_was_fused_in_both_layers(view: Any) -> None:
    decisions = [row for row in view("fusion") if row["location"] == "model.layers.*.mlp"]
    assert any("swiglu" in row["decision"] and row["times"] == 2 for row in decisions)


def test_stages_and_sources_are_text(run_cli: RunCLI, view: Any, tiny_artifact: Path) -> None:
    stages = [row["stage"] for row in view("ir")]
    assert stages[0] == "00-trace"
    for name in (stages[-1], stages[-1][:2], stages[-1][3:]):
        assert view("ir", name) == (tiny_artifact / f"ir/cpu/{stages[-1]}.mlir").read_text()
    kernel = view("kernels")[0]["kernel"]
    assert f"@{kernel}(" in run_cli("inspect", tiny_artifact, "source", kernel).stdout


def test_code_of_a_place_in_the_model_in_every_form(run_cli: RunCLI, tiny_artifact: Path) -> None:
    sources = run_cli("inspect", tiny_artifact, "source", "model.layers.1.mlp").stdout
    assert sources.count("func.func @linear_") == 2  # gate and up; down
    if shutil.which("objdump"):
        near = os.path.relpath(tiny_artifact)
        assert "ret" in run_cli("inspect", near, "source", "model.layers.1.mlp", "--form", "asm").stdout
    refused = run_cli("inspect", tiny_artifact, "source", "model.layers.1.mlp", "--form", "sass")
    assert refused.returncode == 2
    assert "expected: source, asm" in refused.stderr


def test_roofline_says_what_bounds_a_kernel_and_how_good_the_model_is(
    view: Any, tiny_artifact: Path, tmp_path: Path
) -> None:
    rows = view("roofline", "--dims", "T=128,P=8,C=8")
    attention = next(row for row in rows if row["kernel"].startswith("attention"))
    assert attention["predicted"] > 0
    assert attention["bound"] in ("launch", "memory", "compute")
    measured = [{"kernel": row["kernel"], "each": row["predicted"] / 1e6 / 2} for row in rows]
    (tmp_path / "times.json").write_text(json.dumps({"kernels": {"prefill 128": measured}}))
    timed = view("roofline", "--times", str(tmp_path / "times.json"))
    assert {row["error"] for row in timed} == {"+100%"}
    assert all(row["launch"] + max(row["memory"], row["compute"]) <= row["predicted"] for row in rows)


def test_kernels_stand_beside_the_times_of_the_step_that_has_their_dims(
    view: Any, tiny_artifact: Path, tmp_path: Path, run_cli: RunCLI
) -> None:
    def attention(*arguments: str) -> list[Any]:
        return [row for row in view("kernels", *arguments) if row["kind"] == "attention"]

    rows = view("kernels")
    assert all(row["predicted"] > 0 == row["measured"] for row in rows)
    file = tmp_path / "times.json"
    each = {"decode 1 at 64": 1e-6, "decode 8 at 64": 2e-6}
    file.write_text(
        json.dumps({"kernels": {s: [{"kernel": row["kernel"], "each": t} for row in rows] for s, t in each.items()}})
    )
    for given, us in ((["--dims", "T=8"], 2), ([], 1)):
        timed = view("kernels", "--times", str(file), *given)
        assert all(row["measured"] == pytest.approx(us * row["launches"]) for row in timed)
    one, many = (
        next(row for row in view("kernels", *some) if row["kind"] == "attention")
        for some in ([], ["--times", str(file)])
    )
    assert many["bytes"] < one["bytes"], "a context of 64, not of 128"
    refused = run_cli("inspect", tiny_artifact, "kernels", "--times", file, "--dims", "T=3")
    assert refused.returncode == 2
    assert "expected: dims of one of: decode 1 at 64, decode 8 at 64" in refused.stderr


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_prints_text(run_cli: RunCLI, tiny_artifact: Path, name: str) -> None:
    result = run_cli("inspect", tiny_artifact, name)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) > (1 if name == "targets" else 4)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ir", "99"],
        ["ops", "99"],
        ["--target", "moon"],
        ["source", "nothing"],
        ["weights", "x"],
        ["kernels", "--dims", "Z=1"],
        ["plan", "--dims", "T=0"],
        ["summary", "--dims", "T=1"],
        ["weights", "--form", "asm"],
        ["kernels", "--times", "times.json"],
        ["kernels", "--html", "page.html"],
        ["--json", "--html", "page.html"],
    ],
)
def test_what_is_not_there_is_named(run_cli: RunCLI, tiny_artifact: Path, arguments: list[str]) -> None:
    result = run_cli("inspect", tiny_artifact, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert "fix" in result.stderr or "expected" in result.stderr


def test_a_program_comes_from_standard_input_too(run_cli: RunCLI, tiny_artifact: Path) -> None:
    stage = tiny_artifact / "ir/cpu/00-trace.mlir"
    piped = run_cli("inspect", "-", "ops", stdin=stage.read_text())
    assert (piped.returncode, piped.stdout) == (0, run_cli("inspect", stage, "ops").stdout)


def test_verify_finds_a_changed_weight(run_cli: RunCLI, tiny_artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_artifact, tmp_path / "copy")
    weights = next((copy / "weights").iterdir())
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert run_cli("inspect", copy).returncode == 0
    result = run_cli("inspect", copy, "--verify")
    assert result.returncode == 2
    assert weights.name in result.stderr


def test_fusion_decisions_of_like_layers_are_counted() -> None:
    text = (
        'module {\n  func.func @step(%arg0: tensor<4xf32> {wl.name = "x"}) -> tensor<4xf32> attributes {wl.dims = {},'
        ' wl.fusion = ["model.layers.0.mlp: linear: fused linear + add as @linear_0",'
        ' "model.layers.1.mlp: linear: fused linear + add as @linear_3",'
        ' "lm_head: linear: wl.add stays outside: it says \\22no\\22: never"]} {\n'
        '  func.func private @linear_0() attributes {wl.kind = "linear"} {\n'
    )
    assert fusion_decisions(text) == [
        FusionDecision("step", "model.layers.*.mlp", "linear", 2, "fused linear + add"),
        FusionDecision("step", "lm_head", "linear", 1, 'wl.add stays outside: it says "no": never'),
    ]


def test_numbers_as_people_read_them() -> None:
    assert [size(n) for n in (0, 999, 1000, 269_231_360)] == ["0 B", "999 B", "1 kB", "269 MB"]
    assert [count(n) for n in (7, 134_515_008)] == ["7", "135 M"]


def test_kernels_for_other_dims_are_left_out() -> None:
    def launch(kernel: str, when: Guard | None) -> Launch:
        return Launch(kernel, [], [], "1", "lm_head", when=when)

    launches = [launch("small", Guard("T", 1, 8)), launch("large", Guard("T", 9, 64)), launch("both", None)]
    entry = Entry(dims={"T": DimRange(1, 64)}, externals=[], buffers=[], launches=launches, arena_bytes=0)
    assert [one.kernel for one in running(entry, {"T": 8})] == ["small", "both"]
    assert [one.kernel for one in running(entry, {"T": 9})] == ["large", "both"]
