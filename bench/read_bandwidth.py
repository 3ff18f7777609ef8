"""Read bandwidth of a number of threads over as many bytes as the weights have: the limit of decoding one sequence.

Where the last cache is large enough for the weights, it serves this measurement as it serves the engines.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

SOURCE = """
#include <stdint.h>
#include <stddef.h>
uint64_t wl_sum(const uint64_t *data, size_t count) {
  uint64_t sums[32] = {0};
  for (size_t i = 0; i + 32 <= count; i += 32)
    for (size_t j = 0; j < 32; ++j) sums[j] += data[i + j];
  uint64_t total = 0;
  for (size_t j = 0; j < 32; ++j) total += sums[j];
  return total;
}
"""
ROUNDS, PIECES = 30, 64


def measure(threads: int, num_bytes: int) -> float:
    """Return the best rate in bytes per second at which threads sum an array of `num_bytes`, piece by piece."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        library = f"{folder}/sum.so"
        command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-x", "c", "-", "-o", library]
        subprocess.run(command, input=SOURCE.encode(), check=True)
        function = ctypes.CDLL(library).wl_sum  # ctypes lets go of the GIL during the call
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_uint64
        arrays = np.array_split(np.ones(num_bytes // 8, np.uint64), PIECES)
        best = float("inf")
        for _ in range(ROUNDS):
            started = time.perf_counter()
            list(pool.map(lambda array: function(array.ctypes.data, array.size), arrays))
            best = min(best, time.perf_counter() - started)
    return num_bytes / best
