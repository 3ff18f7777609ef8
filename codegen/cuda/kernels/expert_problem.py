"""What products with chosen experts compute, whatever the kernel.

To add a format of weights: give `Weight` its dtype (`linear_problem`), `expert_macros.py.j2` a line in `number` that
makes floats of what memory holds, and let `expert_group.read_problem` read it from the ops. All kernels of experts load
weights through these macros, by the runs of `mixed_runs`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from warploom.codegen.cuda.kernel import Pointer
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Weight
from warploom.codegen.cuda.kernels.mixed_runs import length_of
from warploom.ir.types import DType

BF16 = Weight()


@dataclass(frozen=True, slots=True)
class Gate:
    """What becomes of a product whose rows are those of gate, then those of up: gate * sigmoid(alpha * gate) * up.

    Attributes:
        limit: gate is at most this, up within it, and 1 is added to up (gpt-oss); None: SwiGLU.
    """

    alpha: float = 1.0
    limit: float | None = None

    @property
    def name(self) -> str:
        if self == Gate():
            return "swiglu"
        return f"swiglu_{self.alpha:g}_{self.limit:g}".replace(".", "p")


@dataclass(frozen=True, slots=True)
class ExpertProblem:
    """out[t, j] = gate(x[t, j] @ W[experts[t, j]]^T + bias[experts[t, j]]), accumulated in f32.

    Attributes:
        experts: how many there are.
        n, k: W of one is [n, k]; those of all lie after one another.
        choices: experts of a token.
        shared: x is [T, k], the same for all choices of a token; else [T, choices, k].
        out: dtype of the result.
        bias: dtype of [experts, n], or None.
    """

    experts: int
    n: int
    k: int
    choices: int
    shared: bool
    out: DType = DType.BF16
    weight: Weight = BF16
    bias: DType | None = None
    gate: Gate | None = None

    @property
    def width(self) -> int:
        """Columns of the result."""
        return self.n if self.gate is None else self.n // 2

    @property
    def parts(self) -> tuple[str, ...]:
        """The matrices whose rows meet in one output."""
        return ("w",) if self.gate is None else ("gate", "up")

    @property
    def linear(self) -> LinearProblem:
        """The product with one expert, as far as its weight goes."""
        return LinearProblem(self.n, self.k, weight=self.weight)

    @property
    def run(self) -> int:
        """Neighbours in a row of W in memory that one scale belongs to, at most 64; 0: there are no scales."""
        return length_of(self.linear) if self.weight.groups else 0

    @property
    def is_plain(self) -> bool:
        """Whether W is bf16."""
        return self.weight == BF16

    @property
    def weight_operands(self) -> tuple[Pointer, ...]:
        """w, scale, offset, bias: those that there are."""
        return (*self.weight.operands, *([Pointer("bias", self.bias)] if self.bias else []))

    @property
    def name(self) -> str:
        """Readable and unique: `8of128_1536x2048_shared_swiglu`."""
        parts = [f"{self.choices}of{self.experts}_{self.n}x{self.k}"]
        parts += [self.weight.name] if self.weight.name else []
        parts += ["shared"] if self.shared else []
        parts += [f"bias_{self.bias}"] if self.bias else []
        parts += [self.gate.name] if self.gate else []
        parts += [f"to_{self.out}"] if self.out is not DType.BF16 else []
        return "_".join(parts)

    def wide(self) -> ExpertProblem:
        """The same, with a result in f32."""
        return replace(self, out=DType.F32)

    def flops(self, tokens: str) -> str:
        """Of the products."""
        return f"{2 * self.choices * self.n * self.k} * {tokens}"

    def bytes(self, tokens: str) -> str:
        """The experts that are met, at most all; x and the result once."""
        rows = 2 * self.k * (1 if self.shared else self.choices)
        per_token = rows + self.width * self.choices * self.out.numpy.itemsize
        return f"min({self.choices} * {tokens}, {self.experts}) * {self.weight_bytes} + {per_token} * {tokens}"

    @property
    def weight_bytes(self) -> int:
        """Of one expert's W."""
        return self.weight.bytes(self.n, self.k)
