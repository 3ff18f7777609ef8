"""The cost model: its parts, its devices, and how well it predicts what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from warploom.errors import CompileError
from warploom.passes.blocks import Blocks, Product
from warploom.passes.cost import Work, cost, device_named, device_of, devices, saved_us, step_us
from warploom.passes.fuse_heroes import PHASES

H100 = device_of("cuda:sm_90")
CLOSE = 0.15
Row = tuple[str, str, str, float, Work]  # model, step, kernel, microseconds: see bench/cost_rows.py


def product(rows: int, grid: tuple[int, int, int], numbers: str = "bf16", shared_bytes: int = 100_000) -> Work:
    """A linear layer 4096 x 4096 in blocks."""
    stored = 4096 * 4096 * {"bf16": 2, "i4": 0.5}.get(numbers, 1)
    work = Product(rows, 4096, 4096, numbers)
    return Work("linear", stored + 16384 * rows, 2 * rows * 4096 * 4096, work, Blocks(grid, shared_bytes))


@pytest.mark.parametrize(("name", "share"), [("h100_fit.json", 0.8)])
def test_predictions_are_close_to_what_was_measured_on_an_h100(name: str, share: float) -> None:
    """Of models that the figures were fitted to, and of models that they were not."""
    rows = msgspec.json.decode(Path(__file__).with_name(name).read_bytes(), type=list[Row])
    assert len(rows) > 400
    errors = [cost(work, H100).us / us - 1 for *_, us, work in rows]
    assert sum(abs(error) <= CLOSE for error in errors) / len(rows) >= share


def test_a_small_grid_leaves_multiprocessors_without_work() -> None:
    few, many = (cost(product(64, (blocks, 1, 1)), H100).us for blocks in (16, 64))
    assert few > many + 1


def test_a_wave_that_is_not_full_takes_as_long_as_a_full_one() -> None:
    """Tiles of 128 x 256, one on a multiprocessor: 128 of them, then 160."""
    one, two = (product(rows, (rows // 8, 1, 1), shared_bytes=200_000) for rows in (1024, 1280))
    assert cost(two, H100).compute_us == pytest.approx(2 * cost(one, H100).compute_us, rel=0.01)


def test_numbers_of_few_bits_are_unpacked_first() -> None:
    """They take fewer bytes, but no less time than it takes to make them numbers that are multiplied."""
    i8, i4 = (cost(product(16, (64, 1, 1), numbers), H100) for numbers in ("i8", "i4"))
    assert i4.bound == "compute"
    assert i4.compute_us > i8.compute_us


def test_parts_of_a_sum_are_added_up() -> None:
    whole, parts = product(128, (64, 1, 1)), product(128, (64, 1, 4))
    assert cost(parts, H100).launch_us > cost(whole, H100).launch_us
    assert cost(parts, H100).memory_us < cost(whole, H100).memory_us, "every block takes a part of the depth"


def test_one_row_is_as_fast_as_memory() -> None:
    row = cost(product(1, (2048, 1, 1), shared_bytes=32), H100)
    assert row.memory_us == pytest.approx(1e6 * (4096 * 4096 * 2 + 16384) / H100.read_bytes)
    assert row.bound == "memory"


def test_blocks_take_time_to_begin() -> None:
    assert H100.gpu is not None
    work = Work("rope", 1000, 0, blocks=Blocks((32768, 1, 1)))
    assert cost(work, H100).us == pytest.approx(H100.launch_us + 1e6 * 32768 / H100.gpu.begun_blocks, rel=0.01)


def test_keys_that_are_split_are_combined() -> None:
    heads = Product(1, 0, 128, "bf16")
    one, many = (Work("attention", 1e6, 1e6, heads, Blocks((8, 1, splits))) for splits in (1, 16))
    assert cost(many, H100).us > cost(one, H100).us + 1
    longer = replace(one, product=Product(1, 0, 256, "bf16"))
    assert cost(longer, H100).us > cost(one, H100).us + 1, "keys of long heads come one after the other, too"


def test_kernels_of_a_step_hide_some_of_their_launches() -> None:
    works = [Work("loops", 512, 64)] * 10
    assert step_us(works, H100) == pytest.approx(10 * (cost(works[0], H100).us - H100.hidden_us))
    assert 0 < H100.hidden_us < H100.launch_us


def test_a_kernel_in_place_of_several_waits_after_each() -> None:
    one, many = (Work("persistent", 1e8, 1e8, phases=phases) for phases in (1, 150))
    assert cost(many, H100).us - cost(one, H100).us == pytest.approx(149 * H100.serial_us["persistent"])


@pytest.mark.parametrize(
    ("work", "bound"),
    [
        (Work("loops", 512, 64), "launch"),
        (Work("linear", 235e6, 235e6), "memory"),
        (Work("linear", 386e6, 962e9), "compute"),
        (Work("sample", 66e6, 328e6), "compute"),
    ],
)
def test_what_bounds_a_kernel_is_said(work: Work, bound: str) -> None:
    found = cost(work, H100)
    assert found.bound == bound
    assert f"{found.us:.1f} us" in found.explain()
    assert f"({bound} bound)" in found.explain()


def test_more_work_never_takes_less_time() -> None:
    for device in devices():
        for kind in ("linear", "attention", "loops", "sample"):
            times = [cost(Work(kind, size, 4 * size), device).us for size in (0, 1e3, 1e6, 1e8, 1e10)]
            assert times == sorted(times)


def test_products_of_experts_and_latents_run_on_matrix_units() -> None:
    """Kinds that were not measured by themselves are like a measured one; a new kind of product must say which."""
    kinds = {kind for rules in PHASES for op, (kind, _) in rules.items() if op is not None and "linear" in op.name}
    for kind in (*kinds, "latent_attention"):
        found = cost(Work(kind, 1e6, 1e12), H100)
        assert found.compute_us < 1e6 * 1e12 / H100.vector_flops["*"] / 10, kind
    assert cost(Work("expert_mlp", 4e6, 4e6), H100) == cost(Work("linear", 4e6, 4e6), H100)


def test_one_launch_saves_over_two_what_it_does_not_write_and_read() -> None:
    norm, product = Work("rms_norm", 16384, 16384), Work("linear", 50e6, 50e6)
    fused = Work("linear", 50e6, 50e6 + 16384)
    assert saved_us([norm, product], fused, H100) == pytest.approx(H100.launch_us, rel=0.05)
    assert saved_us([norm, product], Work("linear", 150e6, 50e6), H100) < 0, "reading thrice is no gain"


def test_targets_have_devices() -> None:
    assert device_named(H100.name) == H100
    assert device_named("NVIDIA A100-SXM4-80GB") is None, "only what was measured has limits"
    assert device_of("cuda:sm_90").name != device_of("cpu").name
    assert device_of("cuda:sm_80") == H100, "the only GPU that was measured stands for the others"
    with pytest.raises(CompileError, match="no device was measured for tpu"):
        device_of("tpu")
