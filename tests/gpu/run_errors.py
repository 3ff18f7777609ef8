"""On a GPU: what is refused is refused by name and with numbers, and leaves a GPU that works.

    python -m tests.gpu.run_errors ARTIFACT          # for sm_90

Exit status 1 if a case is let through or fails otherwise than by a DeviceError.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.gpu import arguments
from warploom.errors import DeviceError
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.cuda.driver import Driver
from warploom.tools.synthetic import ragged_batch


def for_arch(artifact: Artifact, arch: str, **changes: object) -> Artifact:
    """The artifact as if its code were for another architecture or driver."""
    (target,) = artifact.manifest.targets.values()
    changed = msgspec.structs.replace(target, cuda=msgspec.structs.replace(target.cuda, arch=arch, **changes))
    return Artifact(artifact.path, msgspec.structs.replace(artifact.manifest, targets={f"cuda:{arch}": changed}))


def cases(artifact: Artifact) -> dict[str, Callable[[], object]]:
    """What has to be refused."""
    return {
        "code for a later GPU": lambda: CudaDevice(for_arch(artifact, "sm_100")),
        "code of one earlier GPU": lambda: CudaDevice(for_arch(artifact, "sm_80")),
        "driver too old": lambda: CudaDevice(for_arch(artifact, "sm_90", min_driver=99000)),
        "no such GPU": lambda: CudaDevice(artifact, ordinal=99),
        "a share of the memory too small": lambda: CudaDevice(artifact, memory_fraction=1e-6),
        "out of memory in the driver": lambda: Driver(0).call("cuMemAlloc", 1 << 50),
    }


def main() -> int:
    """Try every case, then serve."""
    parser = arguments.parser(__doc__)
    parser.add_argument("artifact")
    artifact = load(parser.parse_args().artifact)
    failed = 0
    for name, attempt in cases(artifact).items():
        try:
            attempt()
        except DeviceError as error:
            print(f"--- {name}\n{error}")
        except Exception as error:
            failed += 1
            print(f"--- {name}: FAILED with {type(error).__name__}: {error}")
        else:
            failed += 1
            print(f"--- {name}: FAILED, it was let through")
    device = CudaDevice(artifact, max_tokens=64, max_seqs=4, kv_bytes=1 << 24)
    batch = ragged_batch(device, artifact.manifest.vocab_size, [5], [5], temperature=0, seed=0)
    print("afterwards the GPU answers", device.execute(batch).tokens.tolist())
    device.close()
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
