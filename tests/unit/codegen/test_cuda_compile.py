"""Kernels to machine code without a GPU: the cache, the worker processes, the gate, and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from warploom.codegen.cuda import job as job_module
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.job import job_of, signature
from warploom.codegen.cuda.kernel import Options, Pointer, TensorMap
from warploom.codegen.cuda.resources import Resources
from warploom.codegen.cuda.workers import Workers
from warploom.errors import CompileError
from warploom.ir.types import DType

SM_90 = CudaTarget("sm_90")
DOUBLE = """
import triton
import triton.language as tl

BLOCK = tl.constexpr(128)


@triton.jit
def double(x, y, T):
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + here, 2.0 * tl.load(x + here, mask=here < T), mask=here < T)
"""


@dataclass(frozen=True)
class Kernel:
    """A `CudaKernelSpec` of any source."""

    text: str = DOUBLE
    name: str = "double"
    operands: tuple[Pointer | TensorMap, ...] = (Pointer("x", DType.BF16), Pointer("y", DType.F32))
    options: Options = field(default_factory=Options)
    dims: tuple[str, ...] = ("T",)
    grid: tuple[int, int, int] = (1, 1, 1)
    flops: str = "0"
    bytes: str = "0"

    def source(self) -> str:
        return self.text


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "warploom" / "cuda"


def test_a_kernel_is_compiled_once(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    (kernel,) = compile_kernels([Kernel()], SM_90, counts.append)
    assert counts == [1]
    assert kernel.cubin.startswith(b"\x7fELF")
    assert ".target sm_90a" in kernel.ptx
    assert "tt.func public @double" in kernel.ttir
    assert kernel.resources.num_warps == 4
    assert 0 < kernel.resources.registers < 64
    assert kernel.resources.spill_bytes == 0
    assert len(list(cache_folder.rglob("*.json"))) == 1

    monkeypatch.setattr(Workers, "_start", lambda: pytest.fail("the cache was not used"))
    assert compile_kernels([Kernel()], SM_90) == [kernel]


def test_what_the_result_depends_on_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [
        job_of(Kernel(), SM_90),
        job_of(Kernel(DOUBLE + "# other\n"), SM_90),
        job_of(Kernel(options=Options(num_warps=8)), SM_90),
        job_of(Kernel(options=Options(pdl=True)), SM_90),
        job_of(Kernel(operands=(Pointer("x", DType.F32), Pointer("y", DType.F32))), SM_90),
        job_of(Kernel(), CudaTarget("sm_80")),
    ]
    assert len({job.key for job in jobs}) == len(jobs)
    key = jobs[0].key
    monkeypatch.setattr(job_module, "triton_version", lambda: "3.7.0")
    assert jobs[0].key != key


def test_a_damaged_cache_entry_is_made_again(cache_folder: Path) -> None:
    (first,) = compile_kernels([Kernel()], SM_90)
    (entry,) = cache_folder.rglob("*.json")
    for damaged in (entry.read_text()[:100], "{}", "[]", "null", '{"cubin": ""}'):
        entry.write_text(damaged)
        assert compile_kernels([Kernel()], SM_90) == [first]
    assert json.loads(entry.read_text())["num_warps"] == 4


def test_an_error_of_triton_names_the_kernel() -> None:
    broken = DOUBLE.replace("2.0 *", "nothing *")
    with pytest.raises(CompileError, match=r"(?s)Triton rejects kernel double.*nothing is not defined"):
        compile_kernels([Kernel(broken)], SM_90)


def test_a_compiler_that_dies_takes_only_its_kernel_with_it() -> None:
    deadly = "import os\nos.abort()\n"
    with pytest.raises(CompileError, match=r"(?s)the compiler died on kernel double.*exit status -6"):
        compile_kernels([Kernel(deadly)], SM_90)


def test_settings_of_triton_in_the_environment_do_not_reach_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert compile_kernels([Kernel()], SM_90)[0].cubin


def test_tensor_maps_say_what_the_host_must_encode() -> None:
    source = DOUBLE.replace("tl.load(x + here, mask=here < T)", "tl.sum(x.load([0, 0]).to(tl.float32))")
    x = TensorMap("x", DType.BF16, ("T", 256), (32, 128))
    (kernel,) = compile_kernels([Kernel(source, operands=(x, Pointer("y", DType.F32)))], SM_90)
    assert kernel.tensormaps == (((32, 64), 3),)  # two copies of rows of 128 bytes


def test_types_are_tritons() -> None:
    operands = (Pointer("a", DType.I8), TensorMap("b", DType.BF16, (4, 4), (2, 4)), Pointer("c", DType.F32))
    types = {"a": "*i8", "b": "tensordesc<bf16[2, 4]>", "c": "*fp32", "T": "i32"}
    assert signature(operands, ["T"]) == types


@pytest.mark.parametrize(
    ("resources", "excess"),
    [
        (Resources(8, 232448, 255, 0), None),
        (Resources(8, 232449, 64, 0), "232449 bytes of shared memory"),
        (Resources(16, 0, 129, 0), "129 registers for each of 512 threads"),
        (Resources(4, 0, 255, 4000), "4000 bytes of registers spilled"),
    ],
    ids=str,
)
def test_the_gate_knows_the_limits_of_sm_90(resources: Resources, excess: str | None) -> None:
    found = resources.excess(SM_90)
    assert (found is None) == (excess is None)
    assert excess is None or excess in (found or "")


def test_a_kernel_that_does_not_fit_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resources, "excess", lambda self, target: "a moon of memory")
    with pytest.raises(CompileError, match="kernel double does not fit sm_90: it needs a moon of memory"):
        compile_kernels([Kernel()], SM_90)
    assert compile_kernels([Kernel()], SM_90, refuse_excess=False)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(CompileError, match=r"(?s)cannot compile for sm_75.*sm_80, sm_86"):
        CudaTarget("sm_75")
