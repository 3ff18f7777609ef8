"""`opt` and `run`: every stage of a compilation is a program for both; what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import mlir.ir as mlir
import numpy as np
import pytest

import warploom
from tests.unit.tools.conftest import RunCLI, write_tiny_model
from warploom.ir.context import SHOWN_ERRORS, new_context, parse
from warploom.passes.cse import cse
from warploom.passes.pipeline import run as run_passes
from warploom.tools.agreement import usual_tolerance
from warploom.tools.cli import main


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All stages of compiling a tiny Llama, as WARPLOOM_DUMP writes them."""
    folder = tmp_path_factory.mktemp("dump")
    model = write_tiny_model(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARPLOOM_DUMP", str(folder / "stages"))
        warploom.compile(model, quantization="f32", out=folder / "artifact")
    found = sorted((folder / "stages").rglob("*.mlir"))
    assert len(found) > 6
    assert found[0].name == "00-input.mlir"
    return found


def optimized(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["opt", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_opt_reads_every_stage_and_continues_from_it(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    last = stages[-1].read_text()
    for stage in stages:
        assert optimized(capsys, stage) == stage.read_text()
        rest = ("--pipeline", "f32", "--after", str(int(stage.name[:2])), "--target", "cpu")
        assert optimized(capsys, stage, *rest) == last


def test_run_executes_every_stage_to_the_same_results(stages: list[Path]) -> None:
    for stage in stages[1:]:
        assert main(["run", str(stage), "--against", str(stages[0]), "--dims", "T=4,S=2"]) == 0


@pytest.mark.parametrize(("stage", "entry"), [(0, "step"), (-1, "sample")])
def test_run_executes_the_first_and_the_last_stage_natively(stages: list[Path], stage: int, entry: str) -> None:
    assert main(["run", str(stages[stage]), "--entry", entry, "--on", "cpu", "--against", "interpreter"]) == 0


def last_stage(folder: Path, quantization: str) -> Path:
    artifact = warploom.compile(write_tiny_model(folder / "model"), quantization=quantization, out=folder / "artifact")
    return max((artifact.path / "ir/cpu").glob("*-fuse_loops.mlir"))


@pytest.mark.parametrize(("quantization", "tolerance"), [("bf16", 0.02), ("int8", 0.1)])
def test_what_rounds_coarsely_may_differ_by_as_much(quantization: str, tolerance: float, tmp_path: Path) -> None:
    with new_context(), mlir.Location.unknown():
        module = parse(last_stage(tmp_path, quantization).read_text())
        assert usual_tolerance(module, ["cpu", "interpreter"]) == tolerance
        assert usual_tolerance(module, ["cuda:sm_90"]) == max(tolerance, 0.03)


def test_native_code_of_a_program_with_bf16_agrees_with_its_meaning(tmp_path: Path) -> None:
    assert main(["run", str(last_stage(tmp_path, "bf16")), "--on", "cpu", "--against", "interpreter"]) == 0


def test_what_is_exact_must_agree_closely(stages: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other.mlir").write_text(stages[0].read_text().replace("eps = 1.000000e-05", "eps = 1.001000e-03"))
    assert main(["run", str(tmp_path / "other.mlir"), "--against", str(stages[0])]) == 2


def test_run_takes_inputs_and_gives_results(
    stages: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = np.zeros((1, 264), np.float32)
    logits[0, 7] = 5
    np.savez(tmp_path / "in.npz", logits=logits)
    arguments = ["--entry", "logprobs", "--dims", "R=1", "--inputs", f"{tmp_path}/in.npz", "-o", f"{tmp_path}/out.npz"]
    assert main(["run", str(stages[0]), *arguments, "--json"]) == 0
    assert [row["result"] for row in json.loads(capsys.readouterr().out)] == ["top_tokens", "top_logprobs"]
    with np.load(tmp_path / "out.npz") as results:
        assert results["top_tokens"][0, 0] == 7


def test_run_says_which_results_differ(stages: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mlir"
    broken.write_text(stages[0].read_text().replace('"wl.swiglu"(%', '"wl.add"(%', 1))
    assert main(["run", str(broken), "--against", str(stages[0])]) == 2
    assert "disagrees" in capsys.readouterr().err


def test_opt_shows_what_each_pass_changed(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    shown = optimized(capsys, stages[0], "merge_linears", "cse", "cse", "--print-changed")
    assert "// ---- 01-merge_linears\n" in shown
    assert "+    %" in shown
    assert shown.endswith("// ---- 03-cse: no change\n")
    everything = optimized(capsys, stages[0], "merge_linears", "--print-after-all")
    assert "func.func @step" in everything


def test_opt_reads_standard_input(run_cli: RunCLI, stages: list[Path]) -> None:
    result = run_cli("opt", "-", "narrow_weights{dtype=bf16}", "hoist_weights", stdin=stages[0].read_text())
    assert result.returncode == 0, result.stderr
    assert ":bf16" in result.stdout


def test_opt_lists_passes(capsys: pytest.CaptureFixture[str]) -> None:
    listed = optimized(capsys, "--list").splitlines()
    assert any(line.startswith("narrow_weights{dtype}") for line in listed)
    assert all(len(line.split(maxsplit=1)) == 2 for line in listed), "every pass says what it does"


@pytest.mark.parametrize(
    ("passes", "complaint"),
    [
        (["simplfy"], "did you mean simplify"),
        (["narrow_weights"], "needs dtype"),
        (["narrow_weights{dtype=bf17}"], "is no DType\n  expected: f32, f16, bf16"),
        (["quantize_weights{rules=lm_head=bf16,*=int3}"], "unknown quantization 'int3'"),
        (["dce{x=1}"], "takes no argument 'x'"),
        (["fuse_heroes"], "needs a target"),
        (["--pipeline", "f32"], "--target"),
        (["--pipeline", "f32", "--target", "cpu", "cse"], "takes no passes"),
        (["--pipeline", "f32", "--target", "cpu", "--after", "-1"], "--after is out of range"),
        (["--pipeline", "f32", "--target", "cpu", "--after", "99"], "--after is out of range"),
        (["--after", "2", "cse"], "add --pipeline"),
        (["--pipeline", "f33", "--target", "cpu"], "unknown quantization"),
        (["--plugin", "no_such_plugin"], "no_such_plugin"),
    ],
)
def test_opt_names_what_is_wrong_with_passes(
    stages: list[Path], passes: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["opt", str(stages[0]), *passes]) == 2
    assert complaint in capsys.readouterr().err


MALFORMED = {
    " \n": "is empty",
    "func.func @f(": "does not parse",
    'func.func @f(%x: tensor<4xf32>) { "wl.nonsense"(%x) : (tensor<4xf32>) -> ()\n return }': "wl.nonsense",
    'func.func @f(%x: tensor<4xf32>) -> tensor<5xf32> { %y = "wl.neg"(%x) : (tensor<4xf32>) -> tensor<5xf32>\n'
    " return %y : tensor<5xf32> }": "@f: : neg: wrong result types",
    'func.func @f(%x: tensor<?xf32, #wl.dims<["T"]>>) { return }': "['T'] are not declared",
    "llvm.func @f()": "functions only",
}


@pytest.mark.parametrize(("text", "complaint"), MALFORMED.items())
@pytest.mark.parametrize("command", ["opt", "run"])
def test_malformed_programs_are_named(
    command: str, text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mlir").write_text(text)
    assert main([command, str(tmp_path / "bad.mlir")]) == 2
    error = capsys.readouterr().err
    assert "bad.mlir" in error
    assert complaint in error


def test_of_many_like_errors_the_first_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = '(%x: tensor<4xf32>) { %y = "wl.cast"(%x) : (tensor<4xf32>) -> tensor<4xf32>\n return }'
    (tmp_path / "bad.mlir").write_text("\n".join(f"func.func @layer_{i}{body}" for i in range(10)))
    assert main(["opt", str(tmp_path / "bad.mlir")]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 + SHOWN_ERRORS, "ours and the first of MLIR's"
    assert f"... and {10 - SHOWN_ERRORS} more" in error


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--entry", "nothing"], "there is no entry @nothing"),
        (["--on", "moon"], "do not run on 'moon'"),
        (["--dims", "T=0"], "T = 0"),
        (["--dims", "S=5,T=4"], "hold no batch"),
        (["--against", "missing.mlir"], "cannot be read"),
        (["--tolerance", "1"], "add --against"),
    ],
)
def test_run_names_what_is_wrong(
    stages: list[Path], arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(stages[0]), *arguments]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--seed=-1", "--seed=x", "--tolerance=-1", "--tolerance=nan", "--tolerance=inf"])
def test_numbers_that_nothing_can_be_are_wrong_usage(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "a.mlir", "--against", "cpu", flag])
    assert f"argument {flag.partition('=')[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["run"], ["opt"], ["reduce", "--pass", "cse"]])
def test_an_artifact_is_no_program_but_has_some(
    command: list[str], tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, str(tiny_artifact)]) == 2
    assert "00-trace.mlir" in capsys.readouterr().err


def test_run_shows_differences_only_of_what_it_compared(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for against, compared in (([], False), (["--against", "interpreter"], True)):
        assert main(["run", str(stages[0]), "--entry", "logprobs", *against]) == 0
        assert ("difference" in capsys.readouterr().out) is compared


def test_rules_by_module_are_one_argument_of_a_pass(stages: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    text = optimized(capsys, stages[0], "quantize_weights{rules=lm_head=f32,*.mlp.*=int8}")
    assert text.count('"wl.quantized_linear"') == 6, "gate, up and down of two layers"


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"positions": np.zeros(3)}, "the input positions has another type"),
        ({"page_table": np.zeros(3, np.int32)}, "the input page_table has another type"),
        (
            {"token_ids": np.zeros(5, np.int32), "positions": np.zeros(3, np.int32)},
            "the input positions has another shape",
        ),
        ({"page_table": np.full((2, 2), 4, np.int32)}, "page_table is not possible\n  expected: numbers from 0 to 3"),
        ({"slots": np.full(5, 64, np.int32)}, "slots is not possible\n  expected: numbers from -1 to 63"),
        ({"logit_rows": np.full(2, 5, np.int32)}, "the input logit_rows is not possible"),
        ({"query_start": np.array([0, 4, 3], np.int32)}, "the input query_start is not possible"),
        ({"query_start": np.array([1, 4, 5], np.int32)}, "the input query_start is not possible"),
        ({"context_lens": np.zeros(2, np.int32)}, "the input context_lens is not possible"),
        ({"nothing": np.zeros(2)}, "holds no inputs of this entry"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_given_inputs_are_checked_before_native_code_trusts_them(
    stages: list[Path],
    arrays: dict[str, np.ndarray],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    assert main(["run", str(stages[0]), "--on", "cpu", "--inputs", str(tmp_path / "in.npz")]) == 2
    assert complaint in capsys.readouterr().err


def test_what_run_wrote_it_reads_and_sizes_follow_it(stages: list[Path], tmp_path: Path) -> None:
    run = ["run", str(stages[-1]), "--dims", "T=7,S=3,C=9"]
    assert main([*run, "-o", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as results:
        np.savez(tmp_path / "in.npz", kv=results["kv"])
    np.save(tmp_path / "in.npy", np.zeros(3))
    assert main(["run", str(stages[-1]), "--inputs", str(tmp_path / "in.npz"), "--against", "cpu"]) == 0
    assert main(["run", str(stages[-1]), "--inputs", str(tmp_path / "in.npy")]) == 2


def test_a_pass_that_breaks_a_program_is_named_and_what_it_left_is_dumped(
    stages: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_it(module: mlir.Module) -> None:
        function = module.body.operations[0]
        function.attributes["wl.dims"] = mlir.DictAttr.get({"T": mlir.DenseI64ArrayAttr.get([9, 1, 1])})

    monkeypatch.setenv("WARPLOOM_DUMP", str(tmp_path))
    with new_context(), mlir.Location.unknown():
        module = parse(stages[0].read_text())
        with pytest.raises(warploom.errors.IRError, match=r"after the pass break_it: .*bounds of T"):
            list(run_passes(module, [break_it]))
    assert "wl.dims" in (tmp_path / "01-break_it.failed.mlir").read_text()


def test_stages_of_another_run_stay_as_they_are(
    stages: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPLOOM_DUMP", str(tmp_path))
    (tmp_path / "00-input.mlir").write_text("of a process before")
    with new_context(), mlir.Location.unknown():
        for _ in range(2):
            list(run_passes(parse(stages[0].read_text()), [cse]))
    assert (tmp_path / "00-input.mlir").read_text() == "of a process before"
    assert {path.parent.name for path in tmp_path.glob("*/*.mlir")} == {"run-2", "run-3"}
