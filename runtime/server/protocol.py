"""HTTP/1.1 as uvicorn speaks it with h11, the strict parser, but for the pieces of streamed answers.

h11 takes each piece through its state machine, which costs more than all else that is done for an event. What comes
out is a chunk (RFC 9112, section 7.1), whose form does not depend on any state, so it is written here.
"""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class ChunkingConnection(h11.Connection):
    """A connection that writes chunks itself."""

    _chunked = False

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override]  # h11 has overloads
        """See `h11.Connection`."""
        if type(event) is h11.Data and self._chunked:
            return b"%x\r\n%b\r\n" % (len(event.data), event.data) if event.data else b""
        data = super().send(event)
        if type(event) is h11.Response:
            self._chunked = b"transfer-encoding: chunked" in (data or b"").lower()
        elif type(event) is h11.EndOfMessage:
            self._chunked = False
        return data


class Protocol(H11Protocol):
    """Uvicorn's protocol over such a connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        most = self.config.h11_max_incomplete_event_size
        assert most is not None
        self.conn = ChunkingConnection(h11.SERVER, most)
