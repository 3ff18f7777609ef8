"""docs/extending.md is true: its files, written as they stand, are a plugin that adds one of everything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.unit.frontend.tiny_checkpoints import tiny_config, tiny_tensors, tiny_tokenizer

DOC = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", DOC.read_text(), re.DOTALL)

FUSED_FOR_CUDA = """
import mlir.ir as mlir
from pathlib import Path
from warploom.plugins import load_plugins

load_plugins(["snakes"])
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.driver import compile_entries
from warploom.codegen.cuda.target import cuda
from warploom.ir.context import new_context, parse
from warploom.ir.function import functions
from warploom.passes.pipeline import pipeline, run

target = CudaTarget("sm_90")
with new_context(), mlir.Location.unknown():
    module = parse(Path("spelled.mlir").read_text())
    assert "spell_snake" in list(run(module, pipeline(cuda(target), None)))
    (group,) = (f for f in functions(module).values() if f.is_private)
    assert [op.name for op in group.ops] == ["wl.snake", "wl.mul"], str(module)
    product = compile_entries(module, target)
    print(*product.plan.kernels, sep="\\n")
    assert b".entry snake_bf16_gated" in product.files["kernels/cuda/sm_90/snake_bf16_gated.ptx"]
"""

KERNEL_IN_THE_INTERPRETER = """
import sys
import numpy as np
from ml_dtypes import bfloat16
from warploom.plugins import load_plugins

load_plugins(["snakes"])
from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.cuda.kernels.snake import SnakeSpec
from warploom.ir.ops.snake import snake
from warploom.ir.types import DType

rng = np.random.default_rng(0)
x, gate = (rng.standard_normal(1500).astype(np.float32) for _ in range(2))
out = np.zeros_like(x)
run_kernel(SnakeSpec(DType.F32, gated=True), [x, gate, out], {"N": x.size})
np.testing.assert_allclose(out, snake.evaluate(x) * gate, rtol=1e-5, atol=1e-5)
"""

SPELLED = """
func.func @step(%x: tensor<?x64xbf16, #wl.dims<["T", 64]>> {wl.name = "x"},
                %g: tensor<?x64xbf16, #wl.dims<["T", 64]>> {wl.name = "g"})
    -> (tensor<?x64xbf16, #wl.dims<["T", 64]>> {wl.name = "y"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %s = "wl.sin"(%x) : (TYPE) -> TYPE
  %q = "wl.mul"(%s, %s) : (TYPE, TYPE) -> TYPE
  %a = "wl.add"(%x, %q) : (TYPE, TYPE) -> TYPE
  %y = "wl.mul"(%a, %g) : (TYPE, TYPE) -> TYPE
  return %y : TYPE
}
""".replace("TYPE", 'tensor<?x64xbf16, #wl.dims<["T", 64]>>')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, a model of its family, and a program that spells its op out."""
    root = tmp_path_factory.mktemp("extending")
    for name, code in BLOCKS:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    (root / "snakes" / "__init__.py").touch()
    model = root / "snake-lm"
    model.mkdir()
    config = {**tiny_config(), "architectures": ["SnakeForCausalLM"], "model_type": "snake", "hidden_act": "snake"}
    (model / "config.json").write_text(json.dumps(config))
    save_file({name: (0.05 * values).astype(np.float32) for name, values in tiny_tensors().items()},
              model / "model.safetensors")  # fmt: skip
    tiny_tokenizer().save(str(model / "tokenizer.json"))
    (root / "spelled.mlir").write_text(SPELLED)
    return root


def run_python(folder: Path, *arguments: str) -> str:
    """What a Python that starts in the folder prints."""
    root = str(DOC.parents[1])
    environment = {"PYTHONPATH": f"{folder}:{root}", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_one_of_each() -> None:
    rooms = {str(Path(name).parent).removeprefix("snakes/") for name, _ in BLOCKS if name.startswith("snakes/")}
    assert rooms == {"ir/ops", "passes", "codegen/cuda/kernels", "frontend/models", "passes/quantization"}


def test_a_model_of_the_new_family_compiles_in_the_new_scheme(folder: Path) -> None:
    assert run_python(folder, "use.py") == "clip8\n"
    stages = sorted((folder / "snake-lm.warploom" / "ir").rglob("*.mlir"))
    assert '"wl.snake"' in stages[0].read_text()
    assert not any('"wl.snake"' in line for line in stages[-1].read_text().splitlines()), "no kernel: decomposed"
    prepare, step = stages[-1].read_text().split("func.func @step")
    assert '"wl.quantize"' in prepare
    assert '"wl.min"' in prepare, "what the scheme does to weights is done at compile time"
    assert '"wl.min"' not in step, "and not again; what is quantized there are activations"
    command = ["-m", "warploom.tools.cli", "run", str(stages[0]), "--plugin", "snakes"]
    assert "logits" in run_python(folder, *command, "--on", "cpu", "--against", "interpreter")


def test_every_command_that_reads_programs_takes_plugins(folder: Path) -> None:
    stage, cli = "snake-lm.warploom/ir/cpu/00-trace.mlir", ("-m", "warploom.tools.cli")
    plugin = ("--plugin", "snakes")
    assert "snake" in run_python(folder, *cli, "inspect", "snake-lm.warploom", "ops", "0", *plugin)
    assert "snake" in run_python(folder, *cli, "inspect", stage, "ops", *plugin)
    assert "page.html" in run_python(folder, *cli, "inspect", "snake-lm.warploom", "--html", "page.html", *plugin)
    assert "no differences" in run_python(folder, *cli, "diff", stage, stage, *plugin)
    assert "SnakeForCausalLM" in run_python(folder, *cli, "models", "snake", *plugin)
    with pytest.raises(AssertionError, match=r"load the plugin that defines wl\.snake"):
        run_python(folder, *cli, "opt", stage, "cse")


def test_pass_rule_and_kernel_work_together(folder: Path) -> None:
    assert run_python(folder, "-c", FUSED_FOR_CUDA).split() == ["snake_bf16_gated"]


def test_the_kernel_means_what_the_op_says(folder: Path) -> None:
    run_python(folder, "-c", KERNEL_IN_THE_INTERPRETER)


def test_opt_knows_the_pass(folder: Path) -> None:
    opt = ("-m", "warploom.tools.cli", "opt", "spelled.mlir", "spell_snake", "--plugin", "snakes")
    assert '"wl.snake"' in run_python(folder, *opt)
