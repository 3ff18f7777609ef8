"""`warploom inspect`: what is inside an artifact, as tables or JSON, or as one page to explore it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from warploom.errors import InvalidRequestError
from warploom.passes.cost import device_of
from warploom.runtime.artifact import Artifact, ir_folder, load
from warploom.runtime.devices import survey
from warploom.runtime.plan import Plan
from warploom.tools.bench_times import kernel_times, step_dims, step_timed
from warploom.tools.compile_extra import require_compiler
from warploom.tools.dims_flag import parse_dims
from warploom.tools.fusion_log import fusion_decisions
from warploom.tools.kernel_forms import FORMS, kernel_text, kernels_named
from warploom.tools.plugin_flag import add_plugin_flag
from warploom.tools.reports import Summary, kernel_rows, launch_rows, memory_rows, summarize, weight_rows
from warploom.tools.roofline import roofline_rows
from warploom.tools.table import count, shown, size, table

VIEWS = {
    "summary": "model, sizes, targets (default)",
    "targets": "what this machine makes of each target",
    "kernels": "kernels: launches, flops, bytes and predicted time of one call, where in the model",
    "weights": "packed parameters",
    "plan": "kernel calls in their order",
    "ops": "kinds of ops of the program after the last pass; `ops STAGE`: of another stage",
    "fusion": "which ops became one kernel, and why others did not",
    "memory": "what serving takes: weights, KV cache, arenas",
    "ir": "the program after each pass: `ir` lists the stages, `ir STAGE` prints one (name or number)",
    "roofline": "predicted time of a launch of every kernel, its parts, and what bounds it",
    "source": "`source KERNEL|MODULE.PATH` prints source or, with --form, PTX, SASS, ...; `source` lists the kernels",
}
OF_VIEWS = {
    "form": ("source",),
    "times": ("roofline", "kernels"),
    "dims": ("kernels", "plan", "memory", "roofline", "source"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Show what is inside an artifact, or an IR program."
    views = "\n".join(f"  {name:<9} {what}" for name, what in VIEWS.items())
    parser.epilog = (
        f"views:\n{views}\nof an .mlir file: summary, ops, fusion\n\n"
        "flops, bytes, tiles and arenas are those of decoding one token of one sequence; others with\n"
        "--dims: T tokens, S sequences, R rows of logits, P pages of a sequence, C pages of the cache,\n"
        "H tokens of history, B logit biases. Times are predicted by the compiler's cost model; with\n"
        "--times they stand beside measured ones: of the first step in the file that has these dims.\n\n"
        "examples:\n  warploom inspect smollm2 kernels --dims T=512,R=1\n  warploom inspect smollm2 --verify --json\n"
        "  warploom inspect smollm2 source model.layers.0.mlp --form asm\n"
        "  warploom inspect smollm2 ops 00-trace\n  warploom inspect smollm2/ir/cpu/00-trace.mlir\n"
        "  warploom bench step llama-8b --json > step.json\n"
        "  warploom inspect llama-8b kernels --times step.json --dims T=32\n"
        "  warploom inspect llama-8b --html explorer.html --times step.json\n"
    )
    parser.add_argument(
        "artifact",
        type=Path,
        metavar="ARTIFACT",
        help="the folder that `warploom compile` wrote, or an .mlir file; - is standard input",
    )
    parser.add_argument("view", nargs="?", default="summary", choices=VIEWS, metavar="VIEW", help="see below")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a stage or a kernel")
    parser.add_argument("--target", metavar="NAME", help="of the artifact's targets (default: the first)")
    parser.add_argument("--form", choices=FORMS, help="of source: which form of the code")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page to explore the artifact in a browser")
    parser.add_argument("--times", type=Path, metavar="FILE", help="measured: what `bench step --json` printed")
    parser.add_argument(
        "--dims", type=parse_dims, default={}, metavar="D=N,...", help="sizes to evaluate expressions at"
    )
    parser.add_argument("--verify", action="store_true", help="also check the hash of every byte of the weights")
    add_plugin_flag(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Stage:
    """The program after one pass: a file of the artifact."""

    stage: str
    file: str
    bytes: int = shown(size)


@dataclass(frozen=True)
class TargetRow:
    """A target on this machine."""

    target: str
    here: str


def run(args: argparse.Namespace) -> None:
    """Print the view of a parsed command line."""
    _refuse_what_would_do_nothing(args)
    is_program = args.artifact.is_file() or str(args.artifact) == "-"
    if is_program or args.html is not None or args.view == "ops":
        _prepare_to_parse(args.plugin)
    if is_program:
        _show(_content_of_program(args), args)
        return
    artifact = load(args.artifact, verify=args.verify)
    target = args.target or next(iter(artifact.manifest.targets))
    artifact.target(target)  # an error if it has none of that name
    if args.html is not None:
        _explore(artifact, target, args.html, args.times)
    else:
        _show(_content_of_artifact(artifact, target, args), args)


def _prepare_to_parse(plugins: Sequence[str]) -> None:
    require_compiler("read programs")
    from warploom.plugins import load_plugins

    load_plugins(plugins)


def _refuse_what_would_do_nothing(args: argparse.Namespace) -> None:
    for option, views in OF_VIEWS.items():
        if getattr(args, option) and args.view not in views and args.html is None:
            raise InvalidRequestError(
                f"the view {args.view} takes no --{option}",
                expected=f"the view {' or '.join(views)}",
                fix=f"leave out --{option}, or choose another view",
            )
    other = [name for name in ("name", "form", "dims", "json") if getattr(args, name)]
    if args.html is not None and (other or args.view != "summary"):
        raise InvalidRequestError(
            "--html writes a page of all views",
            found=", ".join([args.view] * (args.view != "summary") + other),
            fix="give it alone; with it go --target, --times and --verify",
        )


def _content_of_artifact(artifact: Artifact, target: str, args: argparse.Namespace) -> Any:
    if args.view in ("roofline", "kernels"):
        return _times(artifact, target, args)
    if args.view == "source" and args.name is not None:
        plan = artifact.plan(target)
        kernels = kernels_named(plan, args.name)
        return "\n".join(kernel_text(artifact, target, plan, kernel, args.form or "source") for kernel in kernels)
    return _content(artifact, args.view, args.name, target, args.dims)


def _content_of_program(args: argparse.Namespace) -> Any:
    """What a view shows of an IR program; other views are of artifacts."""
    from warploom.tools.program_files import read_text
    from warploom.tools.program_report import entry_rows, op_rows

    views: dict[str, Callable[[str], Any]] = {
        "summary": entry_rows,
        "ops": op_rows,
        "fusion": lambda source: fusion_decisions(read_text(source)),
    }
    if args.view not in views or args.name is not None or args.html is not None:
        wanted = f"--html, or the view {args.view}" if args.html is not None else f"the view {args.view}"
        raise InvalidRequestError(
            f"{args.artifact} is one program: it has not all that {wanted} shows",
            expected=f"one of {', '.join(views)}",
            fix="give the artifact that it belongs to",
        )
    return views[args.view](str(args.artifact))


def _show(content: Any, args: argparse.Namespace) -> None:
    if args.json:
        print(msgspec.json.encode(content).decode())
    elif isinstance(content, str):
        print(content)
    elif isinstance(content, Summary):
        print(_brief(content, args.verify))
    else:
        print(table(content))


def _explore(artifact: Artifact, target: str, out: Path, times: Path | None) -> None:
    """Write the explorer's page."""
    require_compiler("read IR stages")
    from warploom.tools.explorer import explorer_page

    out.write_text(explorer_page(artifact, target, {} if times is None else kernel_times(times)))
    print(f"wrote {out}: open it in a browser")


def _times(artifact: Artifact, target: str, args: argparse.Namespace) -> Any:
    """Rows of predicted times at some dims; with measured times, of the step that was timed with these."""
    plan, page_size = artifact.plan(target), artifact.target(target).kv.page_size
    _check_dims(plan, args.dims)
    dims, measured = args.dims, {}
    if args.times is not None:
        times = kernel_times(args.times)
        step = step_timed(times, dims, page_size)
        dims, measured = step_dims(step, page_size) | dims, times[step]
    rows = roofline_rows if args.view == "roofline" else kernel_rows
    return rows(plan, page_size, dims, device_of(target), measured)


def _content(artifact: Artifact, view: str, name: str | None, target: str, dims: Mapping[str, int]) -> Any:
    """What a view shows: text, a summary, or rows."""
    if name is not None and view not in ("ir", "source", "ops"):
        raise InvalidRequestError(f"The view {view} takes no name", found=name, fix="see `warploom inspect --help`")
    if view == "summary":
        return summarize(artifact)
    if view == "targets":
        return [TargetRow(name, verdict) for name, verdict in survey(artifact).items()]
    if view == "ir":
        stages = _stages(artifact, target)
        return stages if name is None else artifact.read_text(_find_stage(stages, name).file)
    if view == "ops":
        from warploom.tools.program_report import op_rows

        stages = _stages(artifact, target)
        return op_rows(str(artifact.path / (stages[-1] if name is None else _find_stage(stages, name)).file))
    if view == "fusion":
        return fusion_decisions(artifact.read_text(_stages(artifact, target)[-1].file))
    return _content_of_plan(artifact, view, name, target, dims)


def _content_of_plan(artifact: Artifact, view: str, name: str | None, target: str, dims: Mapping[str, int]) -> Any:
    plan, page_size = artifact.plan(target), artifact.target(target).kv.page_size
    _check_dims(plan, dims)
    if view == "source":
        return kernel_rows(plan, page_size, dims, device_of(target), {})
    if view == "weights":
        return weight_rows(artifact, plan)
    if view == "plan":
        return launch_rows(plan, page_size, dims)
    return memory_rows(artifact, target, plan, dims)


def _stages(artifact: Artifact, target: str) -> list[Stage]:
    return [
        Stage(Path(name).stem, name, info.bytes)
        for name, info in sorted(artifact.manifest.files.items())
        if name.startswith(f"{ir_folder(target)}/")
    ]


def _find_stage(stages: list[Stage], name: str) -> Stage:
    """The last stage of that name (`dce`), number (`9`, `09`), or both (`09-dce`)."""
    wanted = name.zfill(2)
    for stage in reversed(stages):
        if name == stage.stage or wanted == stage.stage[:2] or stage.stage[3:] == name:
            return stage
    raise InvalidRequestError(
        f"The artifact has no IR stage {name!r}", expected=", ".join(stage.stage for stage in stages), found=name
    )


def _check_dims(plan: Plan, given: Mapping[str, int]) -> None:
    ranges = {name: bounds for entry in plan.entries.values() for name, bounds in entry.dims.items()}
    for name, value in given.items():
        if name not in ranges:
            raise InvalidRequestError(f"There is no dim {name}", expected=", ".join(ranges), found=name)
        bounds = ranges[name]
        if not bounds.min <= value <= bounds.max:
            raise InvalidRequestError(
                f"The dim {name} is out of range", expected=f"{bounds.min}..{bounds.max}", found=str(value)
            )


def _brief(summary: Summary, verified: bool) -> str:
    sizes = summary.bytes
    steps = {name: number for name, number in summary.num_launches.items() if name.endswith("step")}
    launches = [f"{name.removesuffix('step')}{number}" for name, number in steps.items()]
    rows = {
        "model": f"{summary.model} ({summary.architecture}, {count(summary.num_parameters)} parameters)",
        "weights": f"{summary.quantization}, {size(sizes.weights)}"
        + (f"; {size(summary.dummy_bytes)} are made up at load" if summary.dummy_bytes else ""),
        "context": f"{summary.max_context} tokens; KV cache {summary.kv_dtype}, "
        f"{size(summary.kv_bytes_per_token)} a token",
        "targets": ", ".join(summary.targets),
        "code": f"{size(sizes.code)}, {summary.num_kernels} kernels for {', '.join(summary.variants)}",
        "launches": f"in @step, for any number of tokens: {', '.join(launches)}",
        "sources": f"{size(sizes.sources)} (views ir and source)",
        "total": size(sizes.total),
        "made by": f"warploom {summary.warploom_version}, format version {summary.format_version}",
        "chat": "yes" if summary.chat else "no chat template",
        "files": "intact, every byte hashed" if verified else "intact (weights: sizes only; --verify hashes them)",
    }
    return "\n".join(f"{label:<9} {text}" for label, text in rows.items())
