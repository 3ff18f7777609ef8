"""Write the files that are derived from classes: `python -m warploom.tools.derived_files`.

`docs/ops.md` is the op table, `ir/wl.irdl.mlir` the dialect for upstream tools, `docs/models.md` the table of model
families. A test fails while they are stale.
"""

from __future__ import annotations

from pathlib import Path

from warploom.ir.irdl import dialect_text
from warploom.ir.op import OPS, Attribute, Effect, Op, Operand
from warploom.ir.types import ALL, BITS, FLOATS, INTS, STORED
from warploom.tools.models import markdown

ROOT = Path(__file__).resolve().parent.parent
DTYPE_SETS = {
    ALL: "any",
    STORED: "any stored",
    FLOATS: "floats",
    INTS: "integers",
    FLOATS | INTS: "numbers",
    BITS: "bits",
}

INTRODUCTION = """# The ops of the `wl` dialect

Derived from the classes in `ir/ops/`; do not edit, run `python -m warploom.tools.derived_files`.

Values are tensors with named symbolic dimensions. There is no implicit broadcasting and no implicit conversion.
Dtypes: *floats* f32 f16 bf16, *integers* i8 i32 i64, *numbers* both, *bits* i1 i32,
*any* all of these, *any stored* f8e4m3 and i4 too. A composite has a decomposition
into simpler ops, which is its meaning.
"""


def derived_files() -> dict[Path, str]:
    """Path and text of every derived file."""
    return {
        ROOT / "docs" / "ops.md": op_table(),
        ROOT / "docs" / "models.md": markdown(),
        ROOT / "ir" / "wl.irdl.mlir": dialect_text(),
    }


def op_table() -> str:
    """The table of all ops as Markdown."""
    import warploom.ir.ops  # noqa: F401  fills OPS

    ops = [OPS[name] for name in sorted(OPS)]
    core = [op for op in ops if op.decompose is None]
    composites = [op for op in ops if op.decompose is not None]
    return "\n".join([INTRODUCTION, *_section("Core ops", core), *_section("Composites", composites)])


def _section(title: str, ops: list[Op]) -> list[str]:
    head = ["| op | operands | attributes | results | meaning | class |", "| --- | --- | --- | --- | --- | --- |"]
    return [f"## {title} ({len(ops)})", "", *head, *map(_row, ops), ""]


def _row(op: Op) -> str:
    operands = ", ".join(map(_operand, op.operands))
    attributes = ", ".join(map(_attribute, op.attributes))
    results = ", ".join(op.results)
    effect = "" if op.effect is Effect.NONE else f" Effect: {op.effect.value}."
    home = f"{type(op).__module__.rpartition('.')[2]}.py"
    cells = [f"`{op.name}`", operands, attributes, results, op.summary + effect, f"[{home}](../ir/ops/{home})"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _operand(operand: Operand) -> str:
    dtypes = DTYPE_SETS.get(operand.dtypes) or " ".join(sorted(operand.dtypes))
    return f"{operand.name}: {dtypes}" + " (optional)" * operand.optional


def _attribute(attribute: Attribute) -> str:
    default = "" if attribute.default is None else f" = {attribute.default:g}"
    return f"{attribute.name}: {attribute.kind.name.lower()}{default}"


if __name__ == "__main__":
    for path, text in derived_files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
