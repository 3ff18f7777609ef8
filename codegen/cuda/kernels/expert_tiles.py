"""How products with experts are cut into blocks. None of these numbers changes what is computed."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernels.expert_problem import ExpertProblem

LARGE = 128 << 10  # bytes of shared memory that blocks of a data centre's GPU have at least


@dataclass(frozen=True, slots=True)
class ExpertGemvTile:
    """One token on CUDA cores: a block computes `block_n` outputs, `block` stored numbers of a row at a time.

    Attributes:
        ahead: pieces of W that are kept in flight.
    """

    block_n: int
    block: int
    ahead: int
    num_warps: int


@dataclass(frozen=True, slots=True)
class ExpertGemmTile:
    """Tokens of one expert on tensor cores: a block computes `block_n` rows of W times `block_t` tokens.

    Attributes:
        block_k: columns of a step; of numbers that become bf16 in registers, at most.
        tma: W comes through a tensor map.
        sums: scales multiply sums of products, not numbers; where there are offsets, or W is MXFP4, numbers all the
            same.
    """

    block_n: int
    block_t: int
    block_k: int
    num_warps: int
    num_stages: int
    tma: bool = False
    sums: bool = False


@dataclass(frozen=True, slots=True)
class ExpertChoice:
    """The tiles for up to a number of tokens (None: no end): of a GEMV, or of the sorted product."""

    up_to: int | None
    first: ExpertGemvTile | ExpertGemmTile
    second: ExpertGemvTile | ExpertGemmTile


def choices_for(first: ExpertProblem, second: ExpertProblem, target: CudaTarget) -> tuple[ExpertChoice, ...]:
    """Tiles by rising number of tokens.

    Where tokens are few and experts many, hardly two tokens meet in one, and each reads its own; else tokens are sorted
    by expert. Blocks of sorted tokens are as large as an expert has, on average.
    """
    single = max(1, first.experts // (4 * first.choices))  # tokens of which a quarter of all experts is chosen
    per_expert = first.experts / first.choices  # tokens that give every expert one
    sizes = {int(count * per_expert): size for count, size in _block_sizes(first, target).items()}
    ends: list[int | None] = [end for end in sizes if end > single]
    blocks = [*(size for end, size in sizes.items() if end > single), 128]
    sorted_ = [
        ExpertChoice(end, gemm_tile(first, block, target), gemm_tile(second, block, target))
        for end, block in zip([*ends, None], blocks, strict=True)
    ]
    if target.deterministic:
        return tuple(sorted_)
    return (ExpertChoice(single, gemv_tile(first), gemv_tile(second)), *sorted_)


def _block_sizes(problem: ExpertProblem, target: CudaTarget) -> dict[int, int]:
    """Tokens of a block, by how many an expert has on average at most; 128 of more.

    Numbers that become bf16 in registers are unpacked for each block of tokens, and blocks of 8 wait for less.
    """
    if problem.is_plain or not _is_measured(target):
        return {8: 16, 24: 32, 64: 64}
    if problem.weight.is_mxfp4:
        return {8: 8, 24: 32, 64: 64}
    return {4: 8, 8: 16, 24: 32, 64: 64} if problem.weight.bits == 4 else {8: 8, 40: 32, 64: 64}


def _is_measured(target: CudaTarget) -> bool:
    """Whether tiles for numbers of few bits are those that an H100 chose, which add in more than one order."""
    return target.has_wgmma and not target.deterministic


def gemv_tile(problem: ExpertProblem) -> ExpertGemvTile:
    """Whole pieces of rows, and enough of them in flight to hide the way to memory; 16 bytes a thread and load."""
    stored = problem.k * problem.weight.bits // (8 * problem.weight.stored.numpy.itemsize)
    longest = next_power_of_2(stored)
    block = next((size for size in (1024, 512, 256) if stored % size == 0), min(longest, 512))
    if problem.gate is not None and problem.weight.is_mxfp4:  # unpacking is what takes time: x serves four rows
        return ExpertGemvTile(4, block, 4, 4)
    if problem.gate is not None:
        return ExpertGemvTile(1, block, 2, 4 if block >= 512 else 2)
    return ExpertGemvTile(1, block, max(4, 2048 // block), max(1, block // 256))


def gemm_tile(problem: ExpertProblem, block_t: int, target: CudaTarget) -> ExpertGemmTile:
    """A tile for blocks of `block_t` tokens."""
    large, parts = target.shared_bytes > LARGE, len(problem.parts)
    if not problem.is_plain:
        return _few_bits_tile(problem, block_t, target)
    if not large:
        return ExpertGemmTile(64, block_t, 64 if block_t <= 32 else 32, 4, 3)
    tma = target.has_tma and problem.k % 8 == 0
    if block_t <= 16:
        return ExpertGemmTile(64 * parts, block_t, 128, 4, 5 if parts == 1 else 3, tma)
    if block_t <= 32:
        return ExpertGemmTile(64 * parts, block_t, 64 * 2 // parts, 4, 4 if parts == 1 else 5, tma)
    if block_t <= 64:
        return ExpertGemmTile(128, block_t, 64, 4, 4, tma)
    whole = problem.k % 64 == 0 and problem.width % 128 == 0  # masks take registers
    return ExpertGemmTile(128 * parts if whole else 128, block_t, 64, 8, 4 if parts == 1 else 3, tma)


def _few_bits_tile(problem: ExpertProblem, block_t: int, target: CudaTarget) -> ExpertGemmTile:
    """Of numbers that become bf16 in registers. Two warps multiply by mma, whose numbers lie as bytes do."""
    if block_t > 64:
        return ExpertGemmTile(64 * len(problem.parts), block_t, 0, 4, 2)
    if block_t == 64 or not _is_measured(target) or (problem.weight.is_mxfp4 and block_t > 8):
        return ExpertGemmTile(64, block_t, 0, 4, 3)
    if block_t == 8 or problem.gate is None:
        return ExpertGemmTile(64, block_t, 256, 4, 3, sums=True)
    return ExpertGemmTile(64, block_t, 128 if problem.weight.bits == 4 else 256, 2, 3, sums=True)
