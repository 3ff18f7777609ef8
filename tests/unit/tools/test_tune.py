"""`warploom tune`: candidates of the layers of a program, when they are timed, and the table made of the times."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import MagicMock

import mlir.ir as mlir
import msgspec
import pytest

from tests.unit.codegen.test_cuda_kernels_llama import compiled_llama
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.candidates import candidates, neighbours
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Norm, Weight
from warploom.codegen.cuda.kernels.tiles import Choice, GemmTile, GemvTile, MixedTile, RingTile
from warploom.codegen.cuda.layer_key import key_of
from warploom.codegen.cuda.selection import Timing, select
from warploom.codegen.cuda.tuning import Table
from warploom.ir.context import new_context
from warploom.ir.types import DType
from warploom.tools import tuning_runs
from warploom.tools.cli import main
from warploom.tools.tuning_programs import Programs, problems_of
from warploom.tools.tuning_runs import timed_tokens

SM_90 = CudaTarget("sm_90")
PROBLEM = LinearProblem(
    4096, 2048, norm=Norm(1e-5, DType.BF16), weight=Weight(DType.I4, 16, DType.F16, offset=True), bias=DType.BF16
)
GEMV, RING = GemvTile(1, 1024, 2, 4), RingTile(64, 16, 128, 4, 4)
GEMM, SMALL_GEMM = GemmTile(128, 128, 64, 8, 3), GemmTile(64, 64, 64, 4, 3)


def timings(key: str, times: dict[tuple[GemvTile | RingTile | GemmTile, int], float]) -> list[dict[str, object]]:
    return [
        {"key": key, "tokens": tokens, "us": us, "choice": msgspec.to_builtins(Choice(None, tile))}
        for (tile, tokens), us in times.items()
    ]


@pytest.mark.parametrize("quantization", ["bf16", "int4:zeros"])
def test_every_linear_layer_of_a_program_is_found(quantization: str) -> None:
    with new_context(), mlir.Location.unknown():
        module, _ = compiled_llama(quantization)
        found = problems_of(module)
    epilogues = sorted(str(problem.epilogue) for problem in found.values())
    assert epilogues == ["None", "None", "residual", "residual", "swiglu"]  # head, qkv; o, down; gate and up
    assert all(key == key_of(problem) for key, problem in found.items())
    assert all(problem.weight.offset == (quantization != "bf16") for problem in found.values())


def test_programs_say_all_that_a_machine_without_a_compiler_needs(tmp_path: Path) -> None:
    programs = Programs(SM_90)
    for choice in (Choice(16, RING), Choice(None, MixedTile(64, 64, 4, 3)), Choice(None, GEMM)):
        programs.add("sweep", "layer", PROBLEM, (choice,))
    assert programs.write(tmp_path, compiled=()) == []
    found = json.loads((tmp_path / "programs.json").read_text())
    ring, mixed, gemm = found["programs"]
    assert [len(program["steps"]) for program in (ring, mixed, gemm)] == [2, 2, 3]  # norm; and unpacking
    assert {step["kernel"] for p in found["programs"] for step in p["steps"]} == set(found["kernels"])
    assert {job["name"] for job in found["jobs"]} == set(found["kernels"])
    arrays = {name: (array["dtype"], array["shape"]) for name, array in ring["arrays"].items()}
    assert arrays["w"] == ("i8", ["4096", "1024"])  # two numbers a byte
    assert arrays["scale"] == arrays["offset"] == ("f16", ["4096", "16"])
    assert arrays["x"] == ("bf16", ["T", "2048"])
    assert arrays["bias"] == ("bf16", ["4096"])
    for program in found["programs"]:
        for step in program["steps"]:
            assert len(step["operands"]) == len(found["kernels"][step["kernel"]]["operands"])


@pytest.mark.parametrize("choice", [Choice(1, GEMV), Choice(16, RING), Choice(None, GEMM)], ids=str)
def test_candidates_are_timed_where_they_may_be_chosen(choice: Choice) -> None:
    programs = Programs(SM_90)
    programs.add("sweep", "layer", LinearProblem(4096, 2048), (choice,))
    tokens = list(timed_tokens(programs.programs[0]))
    assert tokens == sorted(tokens)
    assert tokens
    assert choice.up_to is None or tokens[-1] == choice.up_to


@pytest.mark.parametrize("weight", [Weight(), Weight(DType.F8, 1), Weight(DType.I4, 32, DType.F16)], ids=str)
def test_candidates_differ_and_have_a_place(weight: Weight) -> None:
    problem = LinearProblem(6144, 4096, weight=weight, rounded=weight.dtype is DType.F8)
    found = list(candidates(problem))
    assert len(found) > 50
    programs = Programs(SM_90)
    for choice in dict.fromkeys(found):
        programs.add("sweep", "layer", problem, (choice,))
    names = [(p["end"], *(step["kernel"] for step in p["steps"])) for p in programs.programs]
    assert len(set(names)) == len(names)


def test_every_tile_has_neighbours_of_its_kind() -> None:
    for tile in (GEMV, RING, GEMM, MixedTile(64, 64, 4, 3)):
        found = [near.tile for near in neighbours(Choice(16, tile))]
        assert found
        assert tile not in found
        assert {type(near) for near in found} == {type(tile)}


def test_the_fastest_are_chosen_and_other_layers_stay(tmp_path: Path) -> None:
    table, times = tmp_path / "sm_90.json", tmp_path / "times.json"
    kept = Table({"1x1": (Choice(None, SMALL_GEMM),)})
    table.write_bytes(msgspec.json.encode(kept))
    found = timings("8x8", {(GEMV, 1): 5, (RING, 16): 7, (GEMM, 4096): 90, (SMALL_GEMM, 4096): 80, (GEMM, 64): 8})
    times.write_text(json.dumps(found))
    assert main(["tune", "select", str(times), str(table)]) == 0
    chosen = msgspec.json.decode(table.read_bytes(), type=Table).linear
    assert chosen["1x1"] == kept.linear["1x1"]
    assert [(choice.up_to, choice.tile) for choice in chosen["8x8"]] == [
        (1, GEMV),
        (16, RING),
        (64, GEMM),
        (None, SMALL_GEMM),
    ]


def test_timings_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "times.json").write_text("{}")
    assert main(["tune", "select", str(tmp_path / "times.json"), str(tmp_path / "sm_90.json")]) == 2
    assert "times.json is not what `tune run` wrote" in capsys.readouterr().err
    assert main(["tune", "select", str(tmp_path / "none.json"), str(tmp_path / "sm_90.json")]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err


def test_a_later_time_of_a_tile_replaces_an_earlier_one() -> None:
    rows = [*timings("8x8", {(GEMM, 4096): 90, (SMALL_GEMM, 4096): 80}), *timings("8x8", {(GEMM, 4096): 70})]
    assert select(msgspec.convert(rows, list[Timing])).linear["8x8"][-1].tile == GEMM


def test_a_layer_that_was_not_finished_in_time_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: a driver and kernels that do nothing, a clock that a run moves on by a second."""
    programs = Programs(SM_90)
    for name, n in (("first", 4096), ("second", 2048)):
        for tile in (GEMM, SMALL_GEMM):
            programs.add("sweep", name, LinearProblem(n, 2048), (Choice(None, tile),))
    programs.write(tmp_path, compiled=())
    clock = [0.0]

    class Loaded(tuning_runs.LoadedPrograms):
        def __init__(self, folder: Path, stream: int) -> None:
            self.programs, self._kernels = json.loads((folder / "programs.json").read_text())["programs"], {}

        def seconds(self, *arguments: object) -> float:
            clock[0] += 1
            return 1e-6

    driver = MagicMock()
    driver.return_value.call.return_value = 0
    for name, fake in (("Driver", driver), ("DeviceMemory", MagicMock())):
        monkeypatch.setattr(tuning_runs, name, fake)
    monkeypatch.setattr(tuning_runs, "LoadedPrograms", Loaded)
    monkeypatch.setattr(tuning_runs, "fill_with_noise", MagicMock())
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    lines: list[str] = []
    rows = tuning_runs.time_folder(tmp_path, 1.5 * len(tuning_runs.MANY) * 2, lines.append)
    assert {row["key"] for row in rows} == {key_of(LinearProblem(4096, 2048))}
    assert len(rows) == 2 * len(tuning_runs.MANY)
    assert "left out" in lines[-1]
