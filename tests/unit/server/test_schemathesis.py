"""Generated requests after the OpenAPI document: whatever they are, no answer is a failure of the server.

WARPLOOM_EXAMPLES sets how many of them for each endpoint; the default keeps CI short.
"""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest
import schemathesis

from tests.unit.server.conftest import Running, StartServer
from warploom.runtime.server.limits import Limits
from warploom.runtime.server.openapi import openapi_document

EXAMPLES = int(os.environ.get("WARPLOOM_EXAMPLES", "25"))
DOCUMENT = openapi_document(with_keys=False)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def fuzzed(start_server: StartServer) -> Running:
    return start_server(limits=Limits(request_seconds=20))


@pytest.mark.parametrize("path", [path for path in DOCUMENT["paths"] if "{" not in path])
def test_no_generated_request_fails_the_server(fuzzed: Running, path: str) -> None:
    [method] = DOCUMENT["paths"][path]

    @hypothesis.settings(max_examples=EXAMPLES if method == "post" else 2, deadline=None)
    @hypothesis.given(case=SCHEMA[path][method].as_strategy())
    def check(case: Any) -> None:
        response = case.call(base_url=fuzzed.url)
        assert response.status_code < 500, response.text
        assert response.status_code in map(int, DOCUMENT["paths"][path][method]["responses"])

    check()
    fuzzed.wait_idle()
    assert fuzzed.complete().status == 200
