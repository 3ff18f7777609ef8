"""The kernels that can be a phase of a persistent kernel."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import CudaKernelSpec
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.decode_attention import DecodeAttentionSpec
from warploom.codegen.cuda.kernels.gemv import GemvSpec
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Weight
from warploom.ir.types import DType

HEAD_DIM = 64


@dataclass(frozen=True, slots=True)
class Roles:
    """The operands of a kernel by name.

    Attributes:
        whole: values of other phases, of which every block reads all.
        partial: those of which it reads a part.
        out: what it makes.
        tables: what is another place in every repetition, and nothing in the chain writes, but for the cache.
        constants: what is the same in all repetitions.
    """

    whole: tuple[str, ...]
    partial: tuple[str, ...]
    out: str
    tables: tuple[str, ...]
    constants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gemv:
    """A linear layer of one token."""

    problem: LinearProblem

    @property
    def roles(self) -> Roles:
        """See `Roles`."""
        residual = ("residual",) if self.problem.epilogue == "residual" else ()
        return Roles(("x",), residual, "out", ("w",) if self.problem.norm is None else ("gain", "w"))


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of one token."""

    problem: AttentionProblem

    @property
    def roles(self) -> Roles:
        """See `Roles`."""
        constants = ("cos", "sin", "slots", "page_table", "context_lens")
        return Roles((), ("q", "k", "v"), "out", ("kv",), constants)


Phase = Gemv | Attention


def phase_of(spec: CudaKernelSpec) -> Phase | str:
    """The phase that computes what a kernel does for one token, or why there is none."""
    if isinstance(spec, GemvSpec):
        return _gemv(spec.problem)
    if isinstance(spec, DecodeAttentionSpec):
        return _attention(spec.problem)
    return "only GEMVs and attention of decodes are phases"


def _gemv(problem: LinearProblem) -> Gemv | str:
    if problem.weight != Weight() or problem.bias is not None:
        return "weights must be bf16, without bias"
    if problem.epilogue == "residual" and problem.out is not DType.F32:
        return "the residual stream must be f32"
    return Gemv(problem)


def _attention(problem: AttentionProblem) -> Attention | str:
    p, projection = problem, problem.projection
    plain = AttentionProblem(p.num_heads, p.num_kv_heads, p.head_dim, p.scale, projection=projection)
    if projection is None or projection.q is None or p != plain:
        return "attention must be plain, over a cache in bf16, and rotate q and k itself"
    if p.head_dim != HEAD_DIM or 2 * projection.half != p.head_dim:
        return f"heads must have {HEAD_DIM} dims, all rotated"
    return Attention(problem)
