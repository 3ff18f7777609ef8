"""Buffers that are live together never overlap, for any dims; and the arena is not much larger than it must be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warploom.codegen.memory_plan import ALIGNMENT, Lifetime, MemoryPlan, peak_bytes, plan_memory
from warploom.ir.dims import dim, resolve
from warploom.runtime.expr import evaluate

DIMS = st.fixed_dictionaries({"T": st.integers(0, 300), "S": st.integers(0, 9), "R": st.integers(0, 9)})
SIZES = st.sampled_from(["0", "4", "64", "100", "4*T", "64*T", "2304*T", "6144*T", "4*S+4", "7*T+64*S", "T*S", "192*R"])


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Lifetime]:
    spans = st.tuples(st.integers(0, 20), st.integers(0, 6))
    drawn = draw(st.lists(st.tuples(SIZES, spans), max_size=30))
    return [Lifetime(f"b{i}", dim(size), first, first + more) for i, (size, (first, more)) in enumerate(drawn)]


def spans(plan: MemoryPlan, buffers: list[Lifetime], dims: dict[str, int]) -> list[tuple[Lifetime, int, int]]:
    starts = [(b, evaluate(plan.offsets[b.name], dims)) for b in buffers]
    return [(b, start, start + resolve(b.size, dims)) for b, start in starts]


@given(lifetimes(), DIMS, DIMS)
def test_live_buffers_never_overlap(buffers: list[Lifetime], reference: dict[str, int], dims: dict[str, int]) -> None:
    plan = plan_memory(buffers, reference)
    placed = spans(plan, buffers, dims)
    total = evaluate(plan.bytes, dims)
    for buffer, start, end in placed:
        assert start % ALIGNMENT == 0
        assert 0 <= start <= end <= total
        for other, other_start, other_end in placed:
            if other.name != buffer.name and other.overlaps(buffer):
                assert end <= other_start or other_end <= start


@given(lifetimes(), DIMS)
def test_the_arena_lies_between_peak_and_sum(buffers: list[Lifetime], dims: dict[str, int]) -> None:
    total = evaluate(plan_memory(buffers, dims).bytes, dims)
    rounded = [-(-resolve(b.size, dims) // ALIGNMENT) * ALIGNMENT for b in buffers]
    assert peak_bytes(buffers, dims) <= total <= sum(rounded)


@given(lifetimes(), DIMS, DIMS)
def test_the_arena_of_the_largest_dims_serves_all(
    buffers: list[Lifetime], some: dict[str, int], others: dict[str, int]
) -> None:
    plan = plan_memory(buffers, some)
    largest = {name: max(some[name], others[name]) for name in some}
    assert evaluate(plan.bytes, some) <= evaluate(plan.bytes, largest)


def test_a_size_that_shrinks_with_a_dim_is_bounded() -> None:
    plan = plan_memory([Lifetime("rest", dim("64*T-64*S"), 0, 0)], {"T": 8, "S": 1})
    assert plan.bytes == "64*T"


def test_a_chain_of_layers_reuses_its_memory() -> None:
    """Hidden state in and out, and the wide middle of an MLP: three slots, whatever the number of layers."""
    buffers = []
    for layer in range(30):
        buffers.append(Lifetime(f"wide{layer}", dim("6144*T"), 2 * layer, 2 * layer + 1))
        buffers.append(Lifetime(f"hidden{layer}", dim("2304*T"), 2 * layer + 1, 2 * layer + 3))
    plan = plan_memory(buffers, {"T": 512})
    assert plan.bytes == "10752*T"
    assert evaluate(plan.bytes, {"T": 512}) == peak_bytes(buffers, {"T": 512})


def test_offsets_stay_readable() -> None:
    """Whole cache lines add up; what may not be whole is rounded; max() only where no size is plainly the largest."""
    early = [Lifetime("a", dim("64*T"), 0, 1), Lifetime("b", dim("4*S"), 0, 1), Lifetime("c", 100, 0, 1)]
    late = [Lifetime("d", dim("8*T"), 2, 2), Lifetime("e", dim("6*S"), 2, 2), Lifetime("f", dim("64*R"), 2, 2)]
    plan = plan_memory(early + late, {"T": 100, "S": 40, "R": 1})
    assert plan.offsets == {
        "a": 0,
        "d": 0,
        "b": "64*T",
        "e": "64*T",
        "c": "64*T + (6*S + 63) // 64 * 64",
        "f": "64*T + (6*S + 63) // 64 * 64",
    }
    assert plan.bytes == "64*T + (6*S + 63) // 64 * 64 + (max(100, 64*R) + 63) // 64 * 64"
