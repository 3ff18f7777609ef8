"""`warploom inspect ARTIFACT --html out.html`: everything about an artifact in one page that needs no network.

The page is `explorer.html` with the data in it, as JSON. Graphs are drawn by the page; here they are only read out of
the IR stages and joined with the plan: which kernels a call launches, their work, and the time that it takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

import mlir.ir as mlir

from warploom.ir.context import new_context, parse
from warploom.passes.cost import Work, cost, device_of
from warploom.runtime.artifact import Artifact, ir_folder
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import Launch, Plan
from warploom.tools.bench_times import step_dims
from warploom.tools.fusion_log import fusion_decisions
from warploom.tools.predictions import works
from warploom.tools.reports import decode_dims, memory_rows, running, summarize, weight_rows
from warploom.tools.stage_graph import Node, stage_graph

PAGE = Path(__file__).parent / "explorer.html"
PLACE = "/*DATA*/null"
PATH, GROUP = ([field.name for field in fields(Node)].index(name) for name in ("path", "group"))
SCENARIOS: dict[str, dict[str, int]] = {  # dims beyond those of decoding one token
    "decode 1": {},
    "decode 32": {"T": 32, "S": 32, "R": 32},
    "prefill 1024": {"T": 1024},
}
KernelTimes = Mapping[str, float]  # kernel -> microseconds of one launch
Times = Mapping[str, KernelTimes]  # by step


def explorer_page(artifact: Artifact, target: str, times: Times) -> str:
    """Return the page of one target of an artifact.

    Args:
        times: measured, see `bench_times`; possibly none.
    """
    # A `<` in a string could end the script that holds it.
    data = json.dumps(explorer_data(artifact, target, times), separators=(",", ":")).replace("<", "\\u003c")
    return PAGE.read_text().replace(PLACE, data)


def explorer_data(artifact: Artifact, target: str, times: Times) -> dict[str, Any]:
    """Return what the page shows, as plain data."""
    plan = artifact.plan(target)
    stages = list(_stages(artifact, target))
    last, page_size = stages[-1], artifact.target(target).kv.page_size
    return {
        "summary": asdict(summarize(artifact)),
        "target": target,
        "device": device_of(target).name,
        "stages": stages,
        "work": {
            **{name: _work(plan, artifact, target, last, dims, {}) for name, dims in SCENARIOS.items()},
            **{
                f"{name}, measured": _work(plan, artifact, target, last, step_dims(name, page_size), times[name])
                for name in times
            },
        },
        "kernels": {
            name: {
                "kind": info.kind,
                "summary": info.summary,
                "source": artifact.read_text(info.source),
                "flops": str(info.flops),
                "bytes": str(info.bytes),
                "registers": info.cuda.registers if info.cuda else 0,
                "shared": info.cuda.shared_bytes if info.cuda else 0,
            }
            for name, info in plan.kernels.items()
        },
        "weights": [list(asdict(row).values()) for row in weight_rows(artifact, plan)],
        "memory": [list(asdict(row).values()) for row in memory_rows(artifact, target, plan, {})],
        "fusion": [asdict(row) for row in fusion_decisions(artifact.read_text(_files(artifact, target)[-1]))],
    }


def _files(artifact: Artifact, target: str) -> list[str]:
    return sorted(name for name in artifact.manifest.files if name.startswith(f"{ir_folder(target)}/"))


def _stages(artifact: Artifact, target: str) -> Iterator[dict[str, Any]]:
    with new_context(), mlir.Location.unknown():
        for name in _files(artifact, target):
            graphs = stage_graph(parse(artifact.read_text(name)))
            yield {"name": PurePosixPath(name).stem, "entries": {n: _packed(nodes) for n, nodes in graphs.items()}}


def _packed(nodes: list[Node]) -> list[list[Any]]:
    """As arrays, in the order of `Node`: names would be most of the page."""
    return [list(asdict(node).values()) for node in nodes]


def _work(
    plan: Plan, artifact: Artifact, target: str, last: Mapping[str, Any], dims: Mapping[str, int], times: KernelTimes
) -> dict[str, list[list[list[Any]]]]:
    """Per entry and node: [kernel, bytes, flops, microseconds, tiles, predicted microseconds] of each launch.

    Args:
        times: measured; none: predicted times are shown, else those of kernels that were timed.
    """
    device, page_size = device_of(target), artifact.target(target).kv.page_size
    found = {}
    for name, nodes in last["entries"].items():
        here = decode_dims(plan.entries[name], page_size, dims)
        launches = [one for one in running(plan.entries[name], here) if not times or one.kernel in times]
        rows = [
            _row(launch, work, cost(work, device).us, times, here)
            for launch, work in zip(launches, works(plan, name, launches, here), strict=True)
        ]
        found[name] = _by_node(nodes, launches, rows)
    return found


def _row(launch: Launch, work: Work, predicted: float, times: KernelTimes, dims: Mapping[str, int]) -> list[Any]:
    shown = times.get(launch.kernel, predicted)
    tiles = evaluate(launch.tiles, dims)
    return [launch.kernel, int(work.bytes), int(work.flops), round(shown, 2), tiles, round(predicted, 2)]


def _by_node(nodes: list[list[Any]], launches: list[Launch], rows: list[list[Any]]) -> list[list[list[Any]]]:
    """Which launches a node makes: they come in the order of the calls and bear their paths."""
    calls = [(index, node[PATH]) for index, node in enumerate(nodes) if node[GROUP]]
    found: list[list[list[Any]]] = [[] for _ in nodes]
    at = 0
    for launch, row in zip(launches, rows, strict=True):
        while at < len(calls) and (calls[at][1] != launch.location or at < _latest_call(launch)):
            at += 1
        if at == len(calls):
            break
        found[calls[at][0]].append(row)
    return found


def _latest_call(launch: Launch) -> int:
    """The latest call whose memory a launch touches: `codegen/plan.py` names temporary buffers `%call.index`."""
    return max((int(name[1:].partition(".")[0]) for name in launch.operands if name.startswith("%")), default=0)
