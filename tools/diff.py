"""`warploom diff`: what two artifacts, or two IR programs, have and what they have not in common."""

from __future__ import annotations

import argparse
import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from warploom.errors import InvalidRequestError
from warploom.runtime.artifact import Artifact, ir_folder, load
from warploom.runtime.weights import numpy_dtype
from warploom.tools.compile_extra import require_compiler
from warploom.tools.plugin_flag import add_plugin_flag
from warploom.tools.reports import decode_dims, running
from warploom.tools.table import table

_EXAMPLES = """\
examples:
  warploom diff smollm2-bf16 smollm2-int8
  warploom diff smollm2/ir/cpu/00-trace.mlir smollm2/ir/cpu/07-merge_linears.mlir --text
  warploom diff before after --json

Two artifacts: manifest, files, weights, kernels and launches. Two programs: how many ops of each kind every function
has, and in how many lines they differ; --text prints those. Values are named by the op that makes them there, so that
an inserted op does not change all others. The exit status is 0 whether they differ or not.
"""
VALUE = re.compile(r"%\w+")
MADE = re.compile(r'\s*(%\w+)(?::\d+)? = (?:"(?:wl\.)?([\w.]+)"|([\w.]+))')
NAMED = re.compile(r'\bname = "([^"]*)"')
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
    add_plugin_flag(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the differences."""
    are_artifacts = _are_artifacts(args.left, args.right)
    if are_artifacts:
        rows, lines = list(artifact_differences(load(args.left), load(args.right))), list[str]()
    else:
        rows, lines = _compare_programs(args.left, args.right, args.plugin)
    if args.text and are_artifacts:
        raise InvalidRequestError("--text is of programs", fix="give one stage of each, or leave out --text")
    if args.json:
        print(msgspec.json.encode({"differences": rows, "lines": lines if args.text else []}).decode())
        return
    print(table(rows) if rows else "no differences")
    if args.text and lines:
        print("\n".join(lines))


def _are_artifacts(left: str, right: str) -> bool:
    """Whether both are folders, not programs; one of each cannot be compared."""
    folders = [Path(side).is_dir() for side in (left, right)]
    if all(folders) or not any(folders):
        return all(folders)
    artifact, program = (left, right) if folders[0] else (right, left)
    raise InvalidRequestError(
        f"{artifact} is a folder and {program} is none",
        expected="two artifacts, or two programs",
        fix=f"of an artifact, give a stage: `warploom inspect {artifact} ir` lists them",
    )


def artifact_differences(left: Artifact, right: Artifact) -> Iterator[Difference]:
    """Yield what differs between two artifacts, from the manifest down to launches; of targets that both have."""
    shared = left.manifest.targets.keys() & right.manifest.targets.keys()
    yield from _differing("target", *({name: "yes" for name in a.manifest.targets} for a in (left, right)))
    yield from _differing("manifest", *(_fields(artifact, shared) for artifact in (left, right)))
    yield from _differing("file", *(_files(artifact, shared) for artifact in (left, right)))
    yield from _differing("weight", *map(_weights, (left, right)))
    for target in sorted(shared):
        yield from _differing(f"launches, {target}", _launches(left, target), _launches(right, target))


def _fields(artifact: Artifact, targets: Set[str]) -> dict[str, str]:
    """Fields of the manifest by path, of these targets."""
    fields = msgspec.to_builtins(artifact.manifest)
    return _flat({**fields, "targets": {name: fields["targets"][name] for name in targets}})


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Fields of a manifest by path; files and weights are compared by themselves."""
    found: dict[str, str] = {}
    for name, item in value.items():
        if name in ("files", "random_params"):
            continue
        if isinstance(item, dict) and item:
            found |= _flat(item, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(item)
    return found


def _files(artifact: Artifact, targets: Set[str]) -> dict[str, str]:
    """Hashes by path, without other targets; the forms of a kernel (source, PTX, cubin, ...) are one thing."""
    hashes: dict[str, list[str]] = {}
    others = tuple(
        start
        for name, target in artifact.manifest.targets.items()
        if name not in targets
        for start in (f"{ir_folder(name)}/", f"kernels/{name.replace(':', '/')}/", target.plan)
    )
    for name, info in sorted(artifact.manifest.files.items()):
        if name.startswith(others):
            continue
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


def _compare_programs(left: str, right: str, plugins: Sequence[str]) -> tuple[list[Difference], list[str]]:
    require_compiler("read IR programs")
    import mlir.ir as mlir

    from warploom.ir.context import new_context
    from warploom.ir.function import functions
    from warploom.plugins import load_plugins
    from warploom.tools.program_files import read_program

    load_plugins(plugins)
    with new_context(), mlir.Location.unknown():
        counts, texts = [], []
        for source in (left, right):
            module = read_program(source)
            found = functions(module)
            entries = {name: f for name, f in found.items() if not f.is_private}
            counts.append({f"@{n} {op}": str(c) for n, f in entries.items() for op, c in _ops(f.ops).items()})
            counts[-1] |= {f"@{n}": "a group" for n in found if n not in entries}
            texts.append([line for f in found.values() for line in str(f.operation).splitlines()])
    lines = list(changed_lines(*texts))
    removed, added = (sum(line.startswith(sign) for line in lines) for sign in "-+")
    rows = list(_differing("ops", *counts))
    return rows + [Difference("text", "lines that differ", str(removed), str(added))] * bool(lines), lines


def _ops(operations: list[Any]) -> Counter[str]:
    return Counter(operation.name for operation in operations)


def changed_lines(left: list[str], right: list[str]) -> Iterator[str]:
    """Yield the lines of two programs that differ, as a diff, not counting locations.

    Values have the names of their makers; where these are the same everywhere, their own.
    """
    before, after = ([LOCATION.sub("", line) for line in lines] for lines in (left, right))
    if before == after:
        return
    renamed = [list(_by_maker(lines)) for lines in (before, after)]
    if renamed[0] != renamed[1]:
        before, after = renamed
    for line in difflib.unified_diff(before, after, n=1, lineterm=""):
        if not line.startswith(("---", "+++")):
            yield line


def _by_maker(lines: list[str]) -> Iterator[str]:
    """Lines in which `%12` is `%add`, or `%model.norm.weight` if its op has a name; arguments keep theirs."""
    makers: dict[str, str] = {}
    for line in lines:
        if (made := MADE.match(line)) is not None:
            named = NAMED.search(line)
            makers[made[1]] = f"%{named[1] if named else made[2] or made[3]}"
        yield VALUE.sub(lambda found: makers.get(found[0], found[0]), line)


def _differing(where: str, left: Mapping[str, str], right: Mapping[str, str]) -> Iterator[Difference]:
    for name in dict.fromkeys([*left, *right]):
        if left.get(name) != right.get(name):
            yield Difference(where, name, _cut(left.get(name, "-")), _cut(right.get(name, "-")))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
