"""Write the tuning table from what `run_linear.py --sweep` timed.

python tests/gpu/select_tiles.py SWEEP_JSON [SWEEP_JSON ...] codegen/tuning/sm_90.json
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from warploom.codegen.cuda.selection import Timing, select


def main() -> None:
    """Select."""
    *timed, out = map(Path, sys.argv[1:])
    runs = [msgspec.json.decode(path.read_bytes(), type=list[Timing]) for path in timed]
    last = {(timing.key, timing.tokens): number for number, run in enumerate(runs) for timing in run}
    timings = [t for number, run in enumerate(runs) for t in run if last[t.key, t.tokens] == number]
    out.write_bytes(msgspec.json.format(msgspec.json.encode(select(timings)), indent=1) + b"\n")


if __name__ == "__main__":
    main()
