"""Which target runs on which GPU, and what is said when none does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda_fake_model import cuda_artifact, fake_cuda
from warploom.errors import DeviceError
from warploom.runtime.cuda.architecture import choose_target
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.cuda.driver import Driver, Gpu, has_gpu
from warploom.runtime.manifest import CudaTargetInfo, KVInfo, TargetInfo

KV = KVInfo(1, 1, 1, 64, "bf16", 256)


def target(arch: str) -> TargetInfo:
    portable = int(arch.removeprefix("sm_")) < 90
    return TargetInfo(f"plan.cuda.{arch}.json", KV, cuda=CudaTargetInfo(arch, portable, 12000, 12080))


def targets(*archs: str) -> dict[str, TargetInfo]:
    return {"cpu": TargetInfo("plan.cpu.json", KV)} | {f"cuda:{arch}": target(arch) for arch in archs}


TARGETS = targets("sm_80", "sm_86", "sm_90")


def gpu(capability: int, driver: int = 13000) -> Gpu:
    return Gpu("NVIDIA Test", capability, driver, 80 << 30, 132)


@pytest.mark.parametrize(
    ("capability", "choice"),
    [
        (80, ("cuda:sm_80", "cubin")),
        (86, ("cuda:sm_86", "cubin")),
        (89, ("cuda:sm_86", "cubin")),
        (90, ("cuda:sm_90", "cubin")),
        (100, ("cuda:sm_86", "ptx")),
        (120, ("cuda:sm_86", "ptx")),
    ],
)
def test_own_cubin_then_an_earlier_one_then_ptx(capability: int, choice: tuple[str, str]) -> None:
    chosen = choose_target(TARGETS, gpu(capability))
    assert (chosen.target, chosen.form) == choice


def test_machine_code_is_of_one_generation_and_ptx_of_any_earlier_one() -> None:
    chosen = choose_target(targets("sm_80", "sm_89"), gpu(90))
    assert (chosen.target, chosen.form) == ("cuda:sm_89", "ptx")


def test_a_choice_says_what_it_looked_at() -> None:
    considered = choose_target(targets("sm_80", "sm_89", "sm_90", "sm_100"), gpu(89)).considered
    assert dict(considered) == {
        "cuda:sm_80": "machine code of an earlier GPU of this generation",
        "cuda:sm_89": "machine code of this architecture",
        "cuda:sm_90": "for later GPUs than sm_89",
        "cuda:sm_100": "for later GPUs than sm_89",
    }


def test_code_of_one_architecture_runs_on_no_other() -> None:
    with pytest.raises(DeviceError) as error:
        choose_target({"cuda:sm_90": target("sm_90")}, gpu(100))
    assert error.value.expected == "code for sm_100, the architecture of NVIDIA Test"
    assert error.value.found == "cuda:sm_90: uses what only sm_90 has, and this GPU is sm_100"
    assert "cuda:sm_100" in str(error.value.fix)


def test_an_older_gpu_is_named() -> None:
    with pytest.raises(DeviceError, match="no code that this GPU can run"):
        choose_target(TARGETS, gpu(75))


def test_translating_needs_a_newer_driver_than_machine_code() -> None:
    assert choose_target(TARGETS, gpu(90, 12020)).form == "cubin"
    with pytest.raises(DeviceError, match="newer NVIDIA driver") as error:
        choose_target(TARGETS, gpu(100, 12020))
    assert (error.value.expected, error.value.found) == (
        "a driver for CUDA 12.8 or later",
        "a driver for CUDA 12.2",
    )


def test_the_form_chosen_is_what_is_loaded(tmp_path: Path) -> None:
    artifact = cuda_artifact(tmp_path / "model", archs=("sm_80",), portable=True)
    for capability, text in ((80, b"cubin of copy"), (100, b"ptx of copy")):
        cuda = fake_cuda(capability=capability)
        device = CudaDevice(artifact, kv_bytes=4000, api=cuda)
        assert text + b"\0" in cuda.images
        assert device.target == "cuda:sm_80"
        device.close()


def test_machines_without_a_usable_gpu_are_told_apart() -> None:
    assert has_gpu(fake_cuda())
    assert not has_gpu(fake_cuda(count=0))
    with pytest.raises(DeviceError, match="no usable NVIDIA GPU") as error:
        Driver(api=fake_cuda(count=0))
    assert error.value.found == "CUDA_ERROR_NO_DEVICE"
    with pytest.raises(DeviceError, match="newer NVIDIA driver"):
        Driver(api=fake_cuda(driver=11080))
    with pytest.raises(DeviceError, match="no such GPU") as error:
        Driver(1, fake_cuda())
    assert error.value.expected == "an ordinal below 1"


class _NoLibrary:
    def cuInit(self, flags: int) -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")


def test_no_driver_is_said_so() -> None:
    assert not has_gpu(_NoLibrary())
    with pytest.raises(DeviceError, match="no NVIDIA driver") as error:
        Driver(api=_NoLibrary())
    assert "libcuda.so.1" in str(error.value.found)
    assert "device='cpu'" in str(error.value.fix)


def test_out_of_memory_in_any_call_names_what_is_free() -> None:
    cuda = fake_cuda(total_bytes=1000)
    with pytest.raises(DeviceError, match="cuMemAlloc failed") as error:
        Driver(api=cuda).call("cuMemAlloc", 2000)
    assert "1000 of 1000 bytes are free" in str(error.value.found)
