"""The arrows between rooms go one way, and serving needs none of the compiler."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAVES = {"warploom.errors", "warploom.version"}  # for everybody
COMPILER = {"mlir", "triton", "torch", "transformers", "ml_dtypes", "gguf", "safetensors", "huggingface_hub"}

# What the files of a room may import beside the standard library, themselves and the leaves.
ROOMS = {
    "ir": {"mlir", "numpy", "ml_dtypes"},
    "frontend": {
        "warploom.ir",
        "mlir", "numpy", "ml_dtypes", "transformers", "tokenizers", "safetensors", "gguf", "huggingface_hub",
        "msgspec", "rich",
    },
    "passes": {"warploom.ir", "mlir", "numpy"},
    "codegen": {
        "warploom.ir", "warploom.runtime.artifact", "warploom.runtime.manifest", "warploom.runtime.plan",
        "warploom.runtime.expr",
        "mlir", "triton", "jinja2", "numpy", "ml_dtypes", "msgspec",
    },
    "runtime": {
        "numpy", "msgspec", "tokenizers", "jinja2", "cuda", "starlette", "uvicorn", "h11",
        "prometheus_client", "llguidance",
    },
}  # fmt: skip
EXCEPTIONS = {"frontend/pickle_reader.py": {"torch"}}  # with weights_only=True, and nowhere else
FILES = sorted(path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Full names of all modules that a file imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (
                [f"warploom.{a.name}" for a in node.names] if node.module == "warploom" else [node.module or ""]
            )


def is_within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("file", FILES)
def test_a_room_imports_only_what_it_may(file: str) -> None:
    room = file.split("/")[0]
    allowed = ROOMS[room] | LEAVES | {f"warploom.{room}"} | sys.stdlib_module_names | EXCEPTIONS.get(file, set())
    found = set(imported_modules(ast.parse((ROOT / file).read_text())))
    assert not {module for module in found if not is_within(module, allowed)}


def test_no_pass_calls_another() -> None:
    """Passes share helpers, but only the pipeline knows the passes."""
    passes = {p.stem for p in (ROOT / "passes").glob("*.py")} - {"__init__", "pipeline"}
    for name in passes:
        tree = ast.parse((ROOT / "passes" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("warploom.passes."):
                other = node.module.removeprefix("warploom.passes.")
                assert other not in {alias.name for alias in node.names}, f"{name} calls the pass {other}"


def test_serving_imports_none_of_the_compiler() -> None:
    files = [path for pattern in ("*.py", "server/*.py") for path in (ROOT / "runtime").glob(pattern)]
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files]
    modules = [f"warploom.{name}" for name in names if not name.endswith("__init__")]
    script = f"""
import importlib, sys, warploom
for name in {modules!r}: importlib.import_module(name)
warploom.load, warploom.LLM, warploom.SamplingParams
print(*sorted({COMPILER!r} & {{m.partition('.')[0] for m in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
