"""The IRDL text of the dialect, derived from the op classes; `ir/wl.irdl.mlir` is its committed copy.

Upstream tools read it: `mlir-opt --irdl-file=ir/wl.irdl.mlir program.mlir`. IRDL checks base types, presence of
attributes without a default and arity; shapes and dtypes are checked by `verify.py`.
"""

from __future__ import annotations

from warploom.ir.attributes import Kind
from warploom.ir.op import DIALECT, OPS, Op


def dialect_text() -> str:
    """An MLIR module holding the `irdl.dialect`."""
    import warploom.ir.ops  # noqa: F401  fills OPS

    ops = "\n".join(_operation(OPS[name]) for name in sorted(OPS))
    return f"module {{\n  irdl.dialect @{DIALECT} {{\n{_DIMS}\n{ops}\n  }}\n}}\n"


_DIMS = """    irdl.attribute @dims {
      %0 = irdl.base "#builtin.array"
      irdl.parameters(names: %0)
    }"""


def _operation(op: Op) -> str:
    """One `irdl.operation`. Every slot has a constraint of its own: a shared one would force equality."""
    constraints: list[str] = []

    def constrain(text: str) -> str:
        constraints.append(f"      %{len(constraints)} = {text}")
        return f"%{len(constraints) - 1}"

    tensor = 'irdl.base "!builtin.tensor"'
    operands = [f"{o.name}: {'optional ' * o.optional}{constrain(tensor)}" for o in op.operands]
    results = [f"{name}: {constrain(tensor)}" for name in op.results]
    required = [a for a in op.attributes if a.default is None]  # IRDL knows no optional ones
    attributes = [f'"{a.name}" = {constrain(_attribute(a.kind))}' for a in required]
    lines = [*constraints]
    lines += [f"      irdl.operands({', '.join(operands)})"] if operands else []
    lines += [f"      irdl.results({', '.join(results)})"] if results else []
    lines += [f"      irdl.attributes {{{', '.join(attributes)}}}"] if attributes else []
    return "\n".join([f"    irdl.operation @{op.name} {{", *lines, "    }"])


def _attribute(kind: Kind) -> str:
    return "irdl.any" if kind is Kind.ARRAY else f'irdl.base "{kind.value}"'
