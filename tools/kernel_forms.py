"""The code of a kernel in every form: source, Triton IR, PTX, SASS, machine code; named by kernel or module path."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from warploom.errors import InvalidRequestError
from warploom.runtime.artifact import Artifact
from warploom.runtime.plan import CudaInfo, Plan


def kernels_named(plan: Plan, name: str) -> list[str]:
    """Return the kernels that a name stands for: one of that name, or all those launched at a module path.

    Raises:
        InvalidRequestError: there is none.
    """
    if name in plan.kernels:
        return [name]
    launches = (launch for entry in plan.entries.values() for launch in entry.launches)
    found = list(dict.fromkeys(launch.kernel for launch in launches if launch.location == name))
    if not found:
        raise InvalidRequestError(
            f"The artifact has no kernel {name!r}, and none at such a place of the model",
            expected="a kernel's name, or a module path such as model.layers.0.mlp",
            fix="`warploom inspect ARTIFACT kernels` lists them",
        )
    return found


def kernel_text(artifact: Artifact, target: str, plan: Plan, kernel: str, form: str) -> str:
    """Return the code of one kernel.

    Raises:
        InvalidRequestError: the target has no such form, or the program that shows it is missing.
    """
    info = plan.kernels[kernel]
    if form == "source":
        return artifact.read_text(info.source)
    forms = _CPU_FORMS if info.cuda is None else _CUDA_FORMS
    if form not in forms:
        known = ", ".join(["source", *forms])
        raise InvalidRequestError(f"Kernels for {target} have no {form}", expected=known, found=form)
    return forms[form](artifact, target, kernel, info.cuda)


Form = Callable[[Artifact, str, str, "CudaInfo | None"], str]


def _ttir(artifact: Artifact, target: str, kernel: str, cuda: CudaInfo | None) -> str:
    assert cuda is not None
    if cuda.ttir is None:
        raise InvalidRequestError(f"{kernel} has no ttir", expected="source, ptx or sass", found="CUDA C++")
    return artifact.read_text(cuda.ttir)


def _ptx(artifact: Artifact, target: str, kernel: str, cuda: CudaInfo | None) -> str:
    assert cuda is not None
    return artifact.read_text(cuda.ptx)


def _sass(artifact: Artifact, target: str, kernel: str, cuda: CudaInfo | None) -> str:
    assert cuda is not None
    return _output([_nvdisasm(), "-c", str((artifact.path / cuda.cubin).absolute())])


def _asm(artifact: Artifact, target: str, kernel: str, cuda: CudaInfo | None) -> str:
    """Of the first ISA level."""
    library = (artifact.path / artifact.target(target).variants[0].file).absolute()
    objdump = shutil.which("objdump")
    if objdump is None:
        raise InvalidRequestError(
            "Machine code is shown by objdump", found="no objdump", fix="apt-get install binutils"
        )
    return _output([objdump, "-d", "--no-show-raw-insn", f"--disassemble={kernel}", str(library)])


_CUDA_FORMS: dict[str, Form] = {"ttir": _ttir, "ptx": _ptx, "sass": _sass}
_CPU_FORMS: dict[str, Form] = {"asm": _asm}
FORMS = ("source", *_CUDA_FORMS, *_CPU_FORMS)


def _nvdisasm() -> str:
    """CUDA's disassembler, which Triton's package brings along."""
    spec = find_spec("triton")
    bundled = None if spec is None or spec.origin is None else Path(spec.origin).parent / "backends/nvidia/bin/nvdisasm"
    found = str(bundled) if bundled is not None and bundled.exists() else shutil.which("nvdisasm")
    if found is None:
        raise InvalidRequestError(
            "SASS is shown by nvdisasm",
            found="no nvdisasm",
            fix="pip install 'warploom[compile-cuda]', which brings it",
        )
    return found


def _output(command: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:  # nothing is written beside the artifact
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if result.returncode:
        raise InvalidRequestError(f"{Path(command[0]).name} failed", found=result.stderr.strip()[-300:])
    return result.stdout
