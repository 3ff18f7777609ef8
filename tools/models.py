"""`warploom models`: the families that compile, from the registry; `docs/models.md` is made of the same rows."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import msgspec

from warploom.frontend.gguf_families import GGUF_FAMILIES
from warploom.frontend.models.registry import Family, families
from warploom.plugins import load_plugins
from warploom.tools.plugin_flag import add_plugin_flag
from warploom.tools.table import shown, table

EPILOG = """\
examples:
  warploom models          every family
  warploom models qwen     those whose name or architecture has "qwen" in it
"""


@dataclass(frozen=True)
class Row:
    """A family as people read it."""

    family: str
    architectures: tuple[str, ...] = shown(", ".join)
    features: tuple[str, ...] = shown(", ".join)
    gguf: tuple[str, ...] = shown(", ".join)
    checked: tuple[str, ...] = shown(", ".join)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    parser.description = "List the model families that compile, and the targets on which they are checked."
    parser.epilog = EPILOG
    parser.add_argument("name", nargs="?", default="", help="part of a name")
    add_plugin_flag(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    load_plugins(args.plugin)
    wanted = args.name.lower()
    found = [row for row in rows() if wanted in f"{row.family} {row.architectures}".lower()]
    print(msgspec.json.encode(found).decode() if args.json else table(found))


def rows() -> list[Row]:
    """One per family, by name."""
    distinct: dict[str, Family] = {family.name: family for family in families().values()}
    return [Row(f.name, f.architectures, f.features, _gguf(f), f.checked) for _, f in sorted(distinct.items())]


def _gguf(family: Family) -> tuple[str, ...]:
    """Values of `general.architecture` that may be read as this family."""
    named = tuple(
        name
        for name, known in GGUF_FAMILIES.items()
        if {*known.architectures, *(known.other[1].architectures if known.other else ())} & {*family.architectures}
    )
    return named


def markdown() -> str:
    """The table as a page."""
    lines = []
    for row in rows():
        cells = (row.family, "<br>".join(row.architectures), *map(", ".join, (row.features, row.gguf, row.checked)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([_INTRODUCTION, *lines, ""])


_INTRODUCTION = """# Model families

Derived from the families in `frontend/models/`; do not edit, run `python -m warploom.tools.derived_files`. The same
table in the terminal: `warploom models`.

*Checked* names the targets on which a tiny random checkpoint of every architecture is held to transformers: logits at
every position, greedy continuations, batched against alone (`tests/model/families`, `tests/gpu/run_families.py`). A
config field that a family does not read is refused, unless it is known not to change a forward step. To add a family,
see [adding-a-family.md](adding-a-family.md).

RoPE scalings: `linear`, `llama3`, `yarn`, `longrope`, and `dynamic` up to `max_position_embeddings` (where it changes
nothing). `longrope` uses its long factors if the artifact is compiled for a context beyond
`original_max_position_embeddings`, its short ones if not (`--max-context`): keys in shared pages cannot be turned
again when a sequence grows.

| family | architectures | beyond Llama | in GGUF | checked |
| --- | --- | --- | --- | --- |"""
