"""How well the cost model predicts kernels, on models that it was fitted to and on others that it has not seen.

    python bench/cost_model.py build FOLDER [--held-out]      # anywhere: artifacts with dummy weights, 10 MB each
    python bench/cost_model.py measure ROWS.json ARTIFACT...  # on the GPU, half a second a model
    python bench/cost_model.py judge [--plot FILE.svg] [--worst N]
    python bench/cost_model.py leave-out                      # each fitted model judged by a fit to the others
    python bench/cost_model.py fit                            # rewrites the device's figures

`judge` and `fit` read the rows of tests/unit/passes: h100_fit.json, and h100_held_out.json, which `fit` does not look
at. A row is a kernel at some work; kernels that models share, and layers that repeat, are one row.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from cost_fit import fit
from cost_judgement import judge, plot, worst
from cost_models import FIT, HELD_OUT
from cost_rows import build, distinct, measure, read, write

from warploom.passes.cost import DEVICES, device_from
from warploom.tools.table import table

ROOT = Path(__file__).resolve().parents[1]
ROWS = {
    name: ROOT / "tests/unit/passes" / file
    for name, file in {"fitted to": "h100_fit.json", "held out": "h100_held_out.json"}.items()
}
FACTS = DEVICES / "h100.json"


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True)
    step = steps.add_parser("build")
    step.add_argument("folder", type=Path)
    step.add_argument("--held-out", action="store_true", help="the models that are judged only")
    step.set_defaults(run=_build)
    step = steps.add_parser("measure")
    step.add_argument("rows", type=Path)
    step.add_argument("artifacts", type=Path, nargs="+")
    step.set_defaults(run=_measure)
    step = steps.add_parser("judge")
    step.add_argument("--plot", type=Path)
    step.add_argument("--worst", type=int, default=15)
    step.set_defaults(run=_judge)
    steps.add_parser("leave-out").set_defaults(run=_leave_out)
    steps.add_parser("fit").set_defaults(run=_fit)
    args = parser.parse_args()
    args.run(args)


def _build(args: argparse.Namespace) -> None:
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in build(HELD_OUT if args.held_out else FIT, args.folder):
        print(name, flush=True)


def _measure(args: argparse.Namespace) -> None:
    rows = []
    for artifact in args.artifacts:
        rows += measure(artifact)
        write(distinct(rows), args.rows)
        print(artifact.name, flush=True)


def _judge(args: argparse.Namespace) -> None:
    device = device_from(json.loads(FACTS.read_text()))
    sets = {name: read(path) for name, path in ROWS.items() if path.exists()}
    for name, rows in sets.items():
        models = dict.fromkeys(row.model.rpartition(".")[0] for row in rows)
        print(f"{name}: {', '.join(models)}\n\n{table(judge(rows, device))}\n")
        print(f"{table(worst(rows, device, args.worst))}\n")
    if args.plot:
        args.plot.write_text(plot(sets, device))


def _leave_out(args: argparse.Namespace) -> None:
    rows, facts = read(ROWS["fitted to"]), json.loads(FACTS.read_text())
    judged = []
    for model in dict.fromkeys(row.model.rpartition(".")[0] for row in rows):
        own = [row for row in rows if row.model.startswith(f"{model}.")]
        device = device_from(fit(facts, [row for row in rows if row not in own]))
        judged.append(replace(judge(own, device)[0], kernels_of=model))
    print(table(judged))


def _fit(args: argparse.Namespace) -> None:
    facts = fit(json.loads(FACTS.read_text()), read(ROWS["fitted to"]))
    FACTS.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
