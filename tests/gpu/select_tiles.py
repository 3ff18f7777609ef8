"""Write the tuning table from what `run_linear.py --sweep` timed.

    python tests/gpu/select_tiles.py SWEEP_JSON [SWEEP_JSON ...] codegen/tuning/sm_90.json

Of a tile that several runs timed, the last time counts. Runs on one kind of machine agree within one per cent.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from warploom.codegen.cuda.selection import Timing, select


def main() -> None:
    """Select."""
    *timed, out = map(Path, sys.argv[1:])
    timings = [timing for path in timed for timing in msgspec.json.decode(path.read_bytes(), type=list[Timing])]
    out.write_bytes(msgspec.json.format(msgspec.json.encode(select(timings)), indent=1) + b"\n")


if __name__ == "__main__":
    main()
