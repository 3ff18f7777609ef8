"""What docs/server.md says of limits, endpoints and flags is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from warploom.runtime.server.endpoints import ENDPOINTS, PAGES
from warploom.runtime.server.limits import limits_table
from warploom.runtime.server.metrics import _ENGINE
from warploom.tools.cli import build_parser

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "server.md").read_text()


def test_the_limits_are_those_of_the_code() -> None:
    assert limits_table() in DOCS, "put the output of limits_table() into docs/server.md"


def test_every_endpoint_and_engine_metric_is_named() -> None:
    for one in (*ENDPOINTS, *PAGES):
        assert f"{one.path}`" in DOCS, one.path
    for gauge in _ENGINE:
        assert gauge.alias is None or f"vllm:{gauge.alias}{'_total' if gauge.counts else ''}" in DOCS


def test_every_flag_that_is_named_exists() -> None:
    parser = build_parser("serve")
    known = parser.parse_args(["serve", "artifact"])
    ours = DOCS.partition("## Evaluation")[0]
    for flag in set(re.findall(r"(?<!!)--([a-z]+[a-z-]*)", ours)):
        assert hasattr(known, flag.replace("-", "_")), flag
