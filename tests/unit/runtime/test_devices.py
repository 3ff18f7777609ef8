"""Which device serves an artifact: the GPU where there is one, nothing without saying so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda_fake_model import cuda_artifact, fake_cuda
from tests.runtime_fakes import fake_artifact
from warploom.errors import ArtifactError, DeviceError, EngineError
from warploom.runtime import devices
from warploom.runtime.artifact import Artifact
from warploom.runtime.devices import DeviceOptions, open_device, survey
from warploom.runtime.manifest import KVInfo, Manifest, TargetInfo

NOTHING = DeviceOptions()
KV = KVInfo(1, 1, 1, 16, "f32", 128)


def with_targets(artifact: Artifact, *names: str) -> Artifact:
    import msgspec

    manifest: Manifest = msgspec.structs.replace(
        artifact.manifest, targets={name: TargetInfo("", KV) for name in names}
    )
    return Artifact(artifact.path, manifest)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    kinds: list[str] = []
    monkeypatch.setattr(devices, "_open_cpu", lambda *_: kinds.append("cpu"))
    monkeypatch.setattr(devices, "_open_cuda", lambda *_: kinds.append("cuda"))
    return kinds


@pytest.mark.parametrize(
    ("targets", "gpu", "kind", "chosen"),
    [
        (["cpu"], True, None, "cpu"),
        (["cpu"], False, None, "cpu"),
        (["cuda:sm_90"], True, None, "cuda"),
        (["cpu", "cuda:sm_90"], True, None, "cuda"),
        (["cpu", "cuda:sm_90"], False, None, "cpu"),
        (["cpu", "cuda:sm_90"], True, "cpu", "cpu"),
        (["cpu", "cuda:sm_90"], False, "cuda", "cuda"),
    ],
)
def test_the_gpu_if_artifact_and_machine_have_one(
    tmp_path: Path, opened: list[str], targets: list[str], gpu: bool, kind: devices.DeviceKind | None, chosen: str
) -> None:
    artifact = with_targets(fake_artifact(tmp_path / "model"), *targets)
    open_device(artifact, kind, NOTHING, lambda: gpu)
    assert opened == [chosen]


def test_a_machine_without_gpu_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="this machine has none") as error:
        open_device(cuda_artifact(tmp_path / "model"), None, NOTHING, lambda: False)
    assert error.value.expected == "cuda:sm_90"
    assert "target='cpu'" in str(error.value.fix)


def test_a_device_that_the_artifact_has_no_code_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no code for the device 'cuda'"):
        open_device(fake_artifact(tmp_path / "cpu"), "cuda", NOTHING)
    with pytest.raises(ArtifactError, match="no code for the device 'cpu'"):
        open_device(cuda_artifact(tmp_path / "cuda"), "cpu", NOTHING)


def test_options_of_the_other_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="threads is for the CPU only"):
        open_device(cuda_artifact(tmp_path / "cuda"), "cuda", DeviceOptions(threads=2))
    with pytest.raises(EngineError, match="memory_fraction is for the GPU only"):
        open_device(fake_artifact(tmp_path / "cpu"), "cpu", DeviceOptions(memory_fraction=0.5))


def test_a_survey_says_of_each_target_what_this_machine_makes_of_it(tmp_path: Path) -> None:
    both = cuda_artifact(tmp_path / "cuda", archs=("sm_80", "sm_90"))
    here = survey(both, fake_cuda(capability=90))
    assert here["cuda:sm_90"] == "runs on Fake GPU: machine code of this architecture"
    assert here["cuda:sm_80"].startswith("does not run on Fake GPU: uses what only sm_80 has")
    without = survey(both, fake_cuda(count=0))
    assert without["cuda:sm_80"] == without["cuda:sm_90"]
    assert "no usable NVIDIA GPU" in without["cuda:sm_90"]
    assert survey(with_targets(both, "cpu")) == {"cpu": "does not run on this CPU: an artifact without variants"}
