"""`warploom eval`: how good an artifact's answers are, measured without a server."""

from __future__ import annotations

import argparse
from importlib import import_module

_TASKS = {
    "nll": ("warploom.tools.eval_nll", "negative log-likelihood and perplexity of a text"),
    "choices": ("warploom.tools.eval_choices", "multiple choice, from a file"),
    "generate": ("warploom.tools.eval_generate", "greedy answers against right ones, from a file"),
}

_EXAMPLES = """\
examples:
  warploom eval nll smollm2 wikitext.txt --context 1024
  warploom eval choices smollm2 arc.jsonl --json
  warploom eval generate smollm2 gsm8k.jsonl --extract '[0-9.]+'

Other tasks: lm-eval against `warploom serve`; see docs/server.md.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Measure how good an artifact's answers are, on files of this machine."
    parser.epilog = _EXAMPLES
    tasks = parser.add_subparsers(title="what to evaluate", metavar="WHAT", required=True)
    for name, (module, summary) in _TASKS.items():
        formatter = argparse.RawDescriptionHelpFormatter
        import_module(module).configure(tasks.add_parser(name, help=summary, formatter_class=formatter))
