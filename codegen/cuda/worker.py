"""The compiler process: Triton or CUDA C++ in, machine code out. Run as `python -m warploom.codegen.cuda.worker`.

One job per line of stdin, one answer per line of stdout, both JSON (see `compile`). Triton needs neither torch nor a
GPU for this: the target is explicit. A source that Triton rejects is an answer; one that makes LLVM abort ends the
process, which is why it is one of its own.
"""

from __future__ import annotations

import base64
import json
import linecache
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from warploom.codegen.cuda.nvrtc import cubin_of, is_cpp, ptx_of

Job = dict[str, Any]
POINTER_ALIGNMENT = 16


def main() -> None:
    """Answer jobs until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what Triton prints is no answer
    with tempfile.TemporaryDirectory(prefix="warploom-triton-") as folder:
        for line in sys.stdin:
            try:
                answer = compile_job(json.loads(line), Path(folder))
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            print(json.dumps(answer), file=answers, flush=True)


def compile_job(job: Job, folder: Path) -> Job:
    """Compile `job["source"]`: its function `job["name"]` for `job["capability"]`; Triton may write into `folder`."""
    return compile_cpp(job) if is_cpp(job["options"]) else compile_triton(job, folder)


def compile_cpp(job: Job) -> Job:
    """Compile CUDA C++, which says itself how much shared memory it takes."""
    ptx = ptx_of(job["name"], job["source"], job["capability"])
    return {
        "cubin": base64.b64encode(cubin_of(ptx, job["capability"])).decode(),
        "ptx": ptx,
        "ttir": "",
        "num_warps": job["options"]["num_warps"],
        "shared_bytes": job["options"]["shared_bytes"],
        "scratch_bytes": 0,
        "tensormaps": [],
    }


def compile_triton(job: Job, folder: Path) -> Job:
    """Compile Triton or Gluon."""
    import triton  # takes most of a second
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    knobs.cache.dir = str(folder / "cache")
    function = getattr(_load(job["name"], job["source"]), job["name"])
    signature: dict[str, str] = job["signature"]
    aligned = {
        (index,): [["tt.divisibility", POINTER_ALIGNMENT]]
        for index, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    source = GluonASTSource if function.is_gluon() else ASTSource
    kernel = triton.compile(
        source(function, signature, constexprs={}, attrs=aligned),
        target=GPUTarget("cuda", job["capability"], 32),
        options={"enable_fp_fusion": True, **job["options"]},
    )
    metadata = kernel.metadata
    return {
        "cubin": base64.b64encode(kernel.asm["cubin"]).decode(),
        "ptx": kernel.asm["ptx"],
        "ttir": kernel.asm["ttgir" if function.is_gluon() else "ttir"],
        "num_warps": metadata.num_warps,
        "shared_bytes": metadata.shared,
        "scratch_bytes": metadata.global_scratch_size + metadata.profile_scratch_size,
        "tensormaps": [{"box": list(m["block_size"]), "swizzle": m["swizzle"]} for m in metadata.tensordesc_meta or []],
    }


def _load(name: str, source: str) -> ModuleType:
    """The module of a source. Its file has no folder, so that machine code does not depend on where it was made."""
    module, file = ModuleType(name), f"{name}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # where Triton finds the text
    exec(compile(source, file, "exec"), module.__dict__)
    return module


if __name__ == "__main__":
    main()
