"""What a kernel of a linear layer computes, whatever its weights are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernels.packed_linear import PackedLinear
from warploom.codegen.cpu.kernels.panels import PANEL
from warploom.codegen.cpu.kernels.quad_linear import QuadLinear
from warploom.codegen.cpu.kernels.quads import QuadFormat
from warploom.codegen.cpu.memory import ELEMENT_BYTES
from warploom.codegen.names import identifier

Weight = Literal["f32", "bf16", "i8", "f8e4m3"]
_ROW_BLOCK_BYTES = 512 * 1024  # a row block of x should stay in L2 while panels pass by


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """What one linear kernel computes.

    Attributes:
        n: columns of W (gate and up together for SwiGLU).
        k: columns of x.
        weight: dtype of W in memory; "i8" and "f8e4m3" have an f32 scale per column, and for f8
            each row of x is first rounded to f8 on a scale of its own. A `QuadFormat`: numbers of few bits, for which
            x is quantized first.
        groups: for f8, how many scales a column has where it has several; x is not rounded then. 0: one.
        static: for f8, whether x is rounded on one scale that is known before, an operand, instead.
        norm_eps: normalize the rows of x first, by RMSNorm with this epsilon.
        ordered: before that, take their columns in an order, an operand; for a `QuadFormat` only.
        epilogue: "residual" adds an operand [T, N]; "swiglu" gives silu(gate) * up [T, N/2], where panel 2j of W holds
            gate columns 32j .. 32j+31 and panel 2j+1 the same up columns.
    """

    n: int
    k: int
    weight: Weight | QuadFormat
    norm_eps: float | None = None
    epilogue: Literal["residual", "swiglu"] | None = None
    static: bool = False
    groups: int = 0
    ordered: bool = False

    @property
    def outputs(self) -> int:
        """Columns of y."""
        return self.n // 2 if self.epilogue == "swiglu" else self.n

    @property
    def panels_per_unit(self) -> int:
        """Panels that make 32 columns of y."""
        return 2 if self.epilogue == "swiglu" else 1

    @property
    def units(self) -> int:
        """Groups of 32 columns of y."""
        return -(-self.outputs // PANEL)

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        norm = "" if self.norm_eps is None else identifier(f"_rms_{self.norm_eps!r}")
        form = "_static" if self.static else f"_g{self.groups}" if self.groups else "_ordered" if self.ordered else ""
        return (
            f"linear_{self.weight}_{self.n}x{self.k}{norm}{form}{'' if self.epilogue is None else '_' + self.epilogue}"
        )

    @property
    def rounds(self) -> bool:
        """Whether rows of x are rounded to f8."""
        return self.weight == "f8e4m3" and not self.groups

    @property
    def scales_at_end(self) -> bool:
        """Whether sums are multiplied by one scale per column."""
        if isinstance(self.weight, QuadFormat):
            return self.weight.scales_at_end
        return self.weight in ("i8", "f8e4m3") and not self.groups

    @property
    def dims(self) -> tuple[str, ...]:
        """Rows of x."""
        return ("T",)

    @property
    def operands(self) -> dict[str, str]:
        """Buffers in ABI order: x [T,K], weight, scale, offset (packed), x_scale [1], order, norm [K], residual, y."""
        quads = self.weight if isinstance(self.weight, QuadFormat) else None
        present = {
            "x": "f32",
            "weight": "i8" if isinstance(self.weight, QuadFormat) else self.weight,
            "scale": quads.scale if quads else "f32" if self.scales_at_end or self.groups else None,
            "offset": quads.scale if quads and quads.offsets else None,
            "x_scale": "f32" if self.static else None,
            "order": "i32" if self.ordered else None,
            "norm": None if self.norm_eps is None else "f32",
            "residual": "f32" if self.epilogue == "residual" else None,
            "y": "f32",
        }
        return {name: element for name, element in present.items() if element is not None}

    @property
    def row_block(self) -> int:
        """Rows of x of one tile."""
        return next(rows for rows in (192, 96, 48, 24) if rows * self.k * 4 <= _ROW_BLOCK_BYTES or rows == 24)

    @property
    def tiles(self) -> str:
        """Tiles of a launch, an expression over T."""
        return f"(T + {self.row_block - 1}) // {self.row_block} * {self.units}"

    @property
    def flops(self) -> str:
        """Floating-point operations of a launch, an expression over T."""
        return f"T * {2 * self.n * self.k}"

    @property
    def bytes(self) -> str:
        """Bytes that a launch must move at least once, an expression over T."""
        columns = self.units * self.panels_per_unit * PANEL
        if isinstance(self.weight, QuadFormat):
            fixed = columns // PANEL * self.weight.all_panel_bytes
        else:
            fixed = columns * (self.k * ELEMENT_BYTES[self.weight] + 4 * max(self.groups, self.scales_at_end))
        per_row = 4 * (self.k + self.outputs * (2 if self.epilogue == "residual" else 1))
        return f"{fixed} + T * {per_row}"

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of one thread: normalized rows and a widened panel, or a row and records; a block's gates."""
        gates = 4 * self.row_block * PANEL
        if isinstance(self.weight, QuadFormat):
            return 4 * self.k + self.row_block * self.weight.record_bytes + gates
        return 4 * (self.row_block * self.k + self.k * PANEL) + gates

    def emit(self, library: Library) -> None:
        """Add the kernel to the library."""
        with library.kernel(self.name, self.operands, self.dims) as kernel:
            (QuadLinear if isinstance(self.weight, QuadFormat) else PackedLinear)(self, kernel).emit()
