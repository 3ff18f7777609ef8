"""The worker pool: every tile exactly once, whatever the threads; nothing burnt when idle; safe to destroy and fork."""

from __future__ import annotations

import ctypes
import os
import resource
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from warploom.codegen.cpu import toolchain

KERNELS = r"""
#include <stdint.h>
#include <unistd.h>
// args[0][tile] += dims[0]; args[1] counts the calls in which another thread wrote to this one's scratch.
void count(void *const *args, const int64_t *dims, int64_t begin, int64_t end, void *scratch) {
    int64_t *mine = scratch, before = *mine;
    for (int64_t tile = begin; tile < end; tile++) {
        __atomic_fetch_add((int32_t *)args[0] + tile, (int32_t)dims[0], __ATOMIC_RELAXED);
        *mine += 1;
    }
    if (*mine != before + end - begin) __atomic_fetch_add((int32_t *)args[1], 1, __ATOMIC_RELAXED);
}
void nothing(void *const *args, const int64_t *dims, int64_t begin, int64_t end, void *scratch) {}
// Holds its tile until all threads have one: returns only if the tiles run in parallel.
void meet(void *const *args, const int64_t *dims, int64_t begin, int64_t end, void *scratch) {
    __atomic_fetch_add((int32_t *)args[0], 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 50000 && __atomic_load_n((int32_t *)args[0], __ATOMIC_SEQ_CST) < dims[0]; i++) usleep(100);
}
typedef void (*wl_kernel)(void *const *, const int64_t *, int64_t, int64_t, void *);
void wl_parallel(void *pool, wl_kernel kernel, void *const *args, const int64_t *dims, int64_t num_tiles);
void launch_empty(void *pool, int launches, int64_t tiles) {
    for (int i = 0; i < launches; i++) wl_parallel(pool, nothing, 0, 0, tiles);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("pool")
    source = folder / "kernels.c"
    source.write_text(KERNELS)
    toolchain.link([], [toolchain.POOL_SOURCE, source], folder / "pool.so")
    loaded = ctypes.CDLL(str(folder / "pool.so"))
    loaded.wl_pool_create.argtypes, loaded.wl_pool_create.restype = [ctypes.c_int, ctypes.c_int64], ctypes.c_void_p
    loaded.wl_pool_destroy.argtypes = [ctypes.c_void_p]
    loaded.wl_parallel.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64]
    loaded.launch_empty.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
    return loaded


def launch(library: ctypes.CDLL, pool: int, kernel: str, arrays: list[np.ndarray], dim: int, tiles: int) -> None:
    args = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    address = ctypes.cast(getattr(library, kernel), ctypes.c_void_p)
    library.wl_parallel(pool, address, args, (ctypes.c_int64 * 1)(dim), tiles)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_tile_runs_exactly_once(library: ctypes.CDLL, threads: int) -> None:
    pool, rng = library.wl_pool_create(threads, 4096), np.random.default_rng(threads)
    counts, faults = np.zeros(5000, np.int32), np.zeros(1, np.int32)
    for tiles in np.concatenate([rng.integers(0, 20, 3000), rng.integers(0, 5000, 300)]):
        counts[:] = 0
        launch(library, pool, "count", [counts, faults], 3, int(tiles))
        assert (counts[:tiles] == 3).all()
        assert not counts[tiles:].any()
    assert faults[0] == 0
    library.wl_pool_destroy(pool)


def test_tiles_run_in_parallel(library: ctypes.CDLL) -> None:
    pool, arrived = library.wl_pool_create(3, 0), np.zeros(1, np.int32)
    start = time.monotonic()
    launch(library, pool, "meet", [arrived], 3, 3)
    assert arrived[0] == 3
    assert time.monotonic() - start < 4, "the workers never joined in"
    library.wl_pool_destroy(pool)


def test_works_among_competing_threads(library: ctypes.CDLL) -> None:
    """More pools and threads than cores, all launching at once: late workers must never touch a later launch."""

    def stress() -> None:
        pool = library.wl_pool_create(4, 0)
        counts, faults = np.zeros(64, np.int32), np.zeros(1, np.int32)
        for launched in range(1500):
            tiles = 1 + launched % 64
            counts[:] = 0
            launch(library, pool, "count", [counts, faults], 1, tiles)
            wrong.extend([launched] if counts.sum() != tiles or counts.max() != 1 else [])
        library.wl_pool_destroy(pool)

    wrong: list[int] = []
    callers = [threading.Thread(target=stress) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_an_idle_pool_uses_no_cpu(library: ctypes.CDLL) -> None:
    pool = library.wl_pool_create(4, 0)
    library.launch_empty(pool, 100, 8)
    time.sleep(0.05)
    before = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(1)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.05, f"{used:.3f} s of CPU in one idle second"
    library.wl_pool_destroy(pool)


def test_an_empty_launch_is_cheap(library: ctypes.CDLL) -> None:
    """About 200 launches make a decode step of some milliseconds; the bound here leaves room for a loaded machine."""
    pool, best = library.wl_pool_create(2, 0), float("inf")
    for _ in range(20):
        start = time.perf_counter()
        library.launch_empty(pool, 1000, 8)
        best = min(best, (time.perf_counter() - start) / 1000)
    library.wl_pool_destroy(pool)
    assert best < 5e-6


def test_a_forked_child_finishes_its_launches_alone(library: ctypes.CDLL) -> None:
    pool = library.wl_pool_create(2, 0)
    counts, faults = np.zeros(100, np.int32), np.zeros(1, np.int32)
    launch(library, pool, "count", [counts, faults], 1, 100)
    child = os.fork()
    if child == 0:
        counts[:] = 0
        launch(library, pool, "count", [counts, faults], 1, 100)
        library.wl_pool_destroy(pool)
        os._exit(0 if (counts == 1).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    launch(library, pool, "count", [counts, faults], 1, 100)
    assert (counts == 2).all()
    library.wl_pool_destroy(pool)


def test_pools_come_and_go(library: ctypes.CDLL) -> None:
    tasks = len(os.listdir("/proc/self/task"))
    for _ in range(100):
        pool = library.wl_pool_create(4, 1 << 16)
        library.launch_empty(pool, 1, 4)
        library.wl_pool_destroy(pool)
    assert len(os.listdir("/proc/self/task")) == tasks


def test_the_pool_compiles_without_warnings(tmp_path: Path) -> None:
    strict = ["cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", str(toolchain.POOL_SOURCE)]
    toolchain._run([*strict, "-o", str(tmp_path / "pool.o")])
