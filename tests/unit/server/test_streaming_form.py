"""What is done for speed when answers are streamed does not show: events and chunks have the form they always have."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from tests.unit.server.conftest import Running

pytestmark = pytest.mark.usefixtures("quiet")
MARKED = {"request_id": 'a"text', "seed": 3, "ignore_eos": True, "max_tokens": 30, "stream": True}


def test_events_of_text_have_the_keys_of_all_others(running: Running) -> None:
    running.device.seconds = 0.005  # so that the pieces are several, however busy the machine is
    answers = [ask(**MARKED).events for ask in (running.complete, running.chat)]
    running.device.seconds = 0
    for first, *events in answers:
        plain = [event for event in events if event["choices"][0]["finish_reason"] is None]
        assert len(plain) > 2
        shapes = {(*event, *event["choices"][0], event["id"], event["model"]) for event in [*plain, first]}
        assert len(shapes) == 1
        assert 'a"text' in first["id"]


def test_a_stream_with_and_without_usage_in_each_event_is_the_same(running: Running) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    for ask in (running.complete, running.chat):
        quick, slow = ask(**MARKED).events, ask(**MARKED, stream_options=options).events[:-1]
        text = [
            "".join(one["text"] if "text" in one else one["delta"].get("content", "") for one in choices)
            for choices in ([event["choices"][0] for event in events] for events in (quick, slow))
        ]
        assert text[0] == text[1] != ""


def test_streams_follow_each_other_on_one_connection(running: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    body = json.dumps({"prompt": "Once", "max_tokens": 8, "stream": True, "seed": 1, "request_id": "same"})
    answers = []
    for _ in range(3):
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answers.append(connection.getresponse().read())
    connection.close()
    assert answers[0].endswith(b"data: [DONE]\n\n")
    choices = [[json.loads(line[6:])["choices"][0] for line in one.split(b"\n\n")[:-2]] for one in answers]
    texts = ["".join(one["text"] for one in pieces) for pieces in choices]
    assert texts[0] == texts[1] == texts[2] != ""


def test_an_old_client_gets_no_chunks(running: Running) -> None:
    body = b'{"prompt": "Once", "max_tokens": 8, "stream": true}'
    head = b"POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", running.port), 30) as client:
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    headers, _, events = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in headers.lower()
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")
