"""The process of a server: sockets, signals, and an end in good order.

SIGTERM or SIGINT: no new connections or requests, the unfinished ones run on for at most `drain_seconds`, then the
rest is ended with an error. A second signal ends at once. If the engine dies, `run` raises and the process ends, so
that whatever started it starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import math
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import uvicorn

from warploom.errors import EngineDeadError, EngineError
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.server.app import build_app
from warploom.runtime.server.protocol import Protocol
from warploom.runtime.server.service import Service

_HEADER_BYTES = 64 << 10
_KEEP_ALIVE_SECONDS = 75
_MORE_CONNECTIONS = 256  # beside those whose requests the engine takes: health checks, metrics, refusals
_BACKLOG = 2048
_WATCH_SECONDS = 0.5
_LAST_WORDS_SECONDS = 2  # in which clients read why their answers end


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Who may use a server, and how it ends.

    Attributes:
        api_keys: any of them opens the server; none: everybody may use it.
        drain_seconds: how long unfinished answers may run on after SIGTERM.
    """

    api_keys: Sequence[str] = ()
    drain_seconds: float = 30.0


def run(service: Service, options: ServerOptions, listener: socket.socket) -> None:
    """Serve on a bound socket until a signal comes; EngineDeadError if the device failed."""
    server = new_server(service, options, listener)
    gc.collect()
    gc.freeze()  # modules and model stay: looking through them again would halt all streams for tens of milliseconds
    listener.listen(_BACKLOG)
    print(f"serving {service.model_name} at {url_of(listener)}", file=sys.stderr, flush=True)
    asyncio.run(_serve(server, listener, service))


def new_server(service: Service, options: ServerOptions, listener: socket.socket) -> Server:
    """Return a server of `service`, to be run on `listener`."""
    loopback = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
    config = uvicorn.Config(
        build_app(service, api_keys=options.api_keys, loopback=loopback),
        http=Protocol,
        backlog=_BACKLOG,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(options.drain_seconds) + _LAST_WORDS_SECONDS,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        limit_concurrency=service.llm.max_requests + _MORE_CONNECTIONS,
    )
    return Server(config, service.llm, options.drain_seconds)


class Server(uvicorn.Server):
    """Uvicorn, without its signal handlers, which would end the process with the signal after a good end.

    Args:
        drain_seconds: what is unfinished this long after the end has begun is ended with an error, which uvicorn,
            that would break off connections, leaves time for.
    """

    def __init__(self, config: uvicorn.Config, llm: AsyncLLM, drain_seconds: float) -> None:
        super().__init__(config)
        self._llm, self._drain_seconds = llm, drain_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and wait for those that are there."""
        ending = asyncio.get_running_loop().call_later(self._drain_seconds, self._llm.end_all)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


async def _serve(server: Server, listener: socket.socket, service: Service) -> None:
    def end() -> None:
        server.force_exit = server.should_exit
        server.should_exit = service.draining = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    watch = asyncio.create_task(_watch(server, service.llm))
    try:
        await server.serve([listener])
    finally:
        watch.cancel()
        await service.llm.close()
        service.close()
    if dead := service.llm.stats().dead:
        raise EngineDeadError(dead)


async def _watch(server: Server, llm: AsyncLLM) -> None:
    """End the server when its engine has died; clients are told before."""
    while llm.stats().dead is None:
        await asyncio.sleep(_WATCH_SECONDS)
    logging.getLogger("warploom.server").critical("the engine has failed: %s", llm.stats().dead)
    await asyncio.sleep(_WATCH_SECONDS)
    server.should_exit = server.force_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Return a socket at an address, which refuses connections until the server runs.

    Raises:
        EngineError: the address cannot be used.
    """
    try:
        if not 0 <= port <= 0xFFFF:  # getaddrinfo cuts it
            raise OSError("ports are 0..65535")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise EngineError(
            "The server cannot listen",
            expected="an address of this machine and a free port",
            found=f"{host}, port {port}: {error}",
            fix="choose another one with --host and --port",
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address of a listening socket as an URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
