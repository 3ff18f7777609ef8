"""`warploom diff`: what two artifacts, or two IR programs, have and what they have not in common."""

from __future__ import annotations

import argparse
import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from warploom.runtime.artifact import Artifact, load
from warploom.runtime.weights import numpy_dtype
from warploom.tools.compile_extra import require_compiler
from warploom.tools.reports import decode_dims, running
from warploom.tools.table import table

_EXAMPLES = """\
examples:
  warploom diff smollm2-bf16 smollm2-int8
  warploom diff smollm2/ir/cpu/00-trace.mlir smollm2/ir/cpu/07-merge_linears.mlir --text
  warploom diff before after --json

Two artifacts: manifest, files, weights, kernels and launches. Two programs: how many ops of each kind every function
has; with --text also the lines that differ, with values renamed, so that an inserted op does not change all others.
"""
SSA = re.compile(r"%\w+(?::\d+)?(?:#\d+)?")
LOCATION = re.compile(r' loc\((?:#?\w+|"[^"]*")\)')


@dataclass(frozen=True)
class Difference:
    """One thing that differs: where, and what it is on either side; `-` where there is none."""

    where: str
    what: str
    left: str
    right: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Compare two artifacts, or two IR programs."
    parser.epilog = _EXAMPLES
    parser.add_argument("left", metavar="LEFT", help="an artifact, or an .mlir file (- is standard input)")
    parser.add_argument("right", metavar="RIGHT", help="the same")
    parser.add_argument("--text", action="store_true", help="of programs: print the lines that differ, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the differences."""
    if Path(args.left).is_dir() or Path(args.right).is_dir():
        rows = list(artifact_differences(load(args.left), load(args.right)))
        lines: list[str] = []
    else:
        rows, lines = _compare_programs(args.left, args.right, args.text)
    if args.json:
        print(msgspec.json.encode({"differences": rows, "lines": lines}).decode())
    else:
        print(table(rows) if rows else "no differences")
        print("\n".join(lines), end="\n" if lines else "")


def artifact_differences(left: Artifact, right: Artifact) -> Iterator[Difference]:
    """Yield what differs between two artifacts, from the manifest down to launches."""
    fields = [_flat(msgspec.to_builtins(a.manifest)) for a in (left, right)]
    yield from _differing("manifest", *fields)
    yield from _differing("file", *map(_files, (left, right)))
    yield from _differing("weight", *map(_weights, (left, right)))
    for target in sorted(left.manifest.targets.keys() & right.manifest.targets.keys()):
        yield from _differing(f"launches, {target}", _launches(left, target), _launches(right, target))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Fields of a manifest by path; files and weights are compared by themselves."""
    found: dict[str, str] = {}
    for name, item in value.items():
        if name in ("files", "random_params"):
            continue
        if isinstance(item, dict):
            found |= _flat(item, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(item)
    return found


def _files(artifact: Artifact) -> dict[str, str]:
    """Hashes by path; the forms of a kernel (source, PTX, cubin, ...) are one thing."""
    hashes: dict[str, list[str]] = {}
    for name, info in sorted(artifact.manifest.files.items()):
        path = PurePosixPath(name)
        is_kernel = path.parts[0] == "kernels"
        hashes.setdefault(str(path.with_suffix(".*")) if is_kernel else name, []).append(info.sha256)
    return {name: _hash_of_all(found)[:12] for name, found in hashes.items()}


def _hash_of_all(hashes: list[str]) -> str:
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()


def _weights(artifact: Artifact) -> dict[str, str]:
    """Types by name; those that are made up at load are not made for this."""
    stored = {name: f"{array.dtype} {array.shape}" for name, array in artifact.stored_params.items()}
    random = artifact.manifest.random_params
    return stored | {name: f"{numpy_dtype(p.dtype)} {tuple(p.shape)}, made up" for name, p in random.items()}


def _launches(artifact: Artifact, target: str) -> dict[str, str]:
    """How often each kernel runs in decoding one token, by entry."""
    plan, page_size = artifact.plan(target), artifact.target(target).kv.page_size
    counts = Counter(
        f"@{name} {launch.kernel}"
        for name, entry in plan.entries.items()
        for launch in running(entry, decode_dims(entry, page_size, {}))
    )
    return {kernel: str(count) for kernel, count in counts.items()}


def _compare_programs(left: str, right: str, text: bool) -> tuple[list[Difference], list[str]]:
    require_compiler("read IR programs")
    import mlir.ir as mlir

    from warploom.ir.context import new_context
    from warploom.ir.function import functions
    from warploom.tools.program_files import read_program

    with new_context(), mlir.Location.unknown():
        counts, texts = [], []
        for source in (left, right):
            module = read_program(source)
            found = functions(module)
            entries = {name: f for name, f in found.items() if not f.is_private}
            counts.append({f"@{n} {op}": str(c) for n, f in entries.items() for op, c in _ops(f.ops).items()})
            counts[-1] |= {f"@{n}": "a group" for n in found if n not in entries}
            texts.append([line for f in found.values() for line in str(f.operation).splitlines()])
    return list(_differing("ops", *counts)), list(changed_lines(*texts)) if text else []


def _ops(operations: list[Any]) -> Counter[str]:
    return Counter(operation.name for operation in operations)


def changed_lines(left: list[str], right: list[str]) -> Iterator[str]:
    """Yield the lines of two programs that differ, as a diff, not counting names of values and locations."""
    before, after = ([SSA.sub("%", LOCATION.sub("", line)) for line in lines] for lines in (left, right))
    for line in difflib.unified_diff(before, after, n=1, lineterm=""):
        if not line.startswith(("---", "+++")):
            yield line


def _differing(where: str, left: Mapping[str, str], right: Mapping[str, str]) -> Iterator[Difference]:
    for name in dict.fromkeys([*left, *right]):
        if left.get(name) != right.get(name):
            yield Difference(where, name, _cut(left.get(name, "-")), _cut(right.get(name, "-")))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
