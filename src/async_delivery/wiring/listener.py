"""The HTTP server of the serving process: uvicorn on the main thread, with this service's way to stop.

The first SIGTERM or SIGINT asks for a drain, during which requests are answered; when that is over the server ends.
A second one ends it at once. Knows nothing of stores and workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from async_delivery.wiring.address import BACKLOG
from async_delivery.wiring.protocol import HeadLimits

# Answers in progress may take this long after the drain.
GRACEFUL_SECONDS = 3
# Longer than clients usually pause between two polls, so that they need not connect anew for each.
KEEP_ALIVE_SECONDS = 30
_PROBE_SECONDS = 30.0


class Listener(uvicorn.Server):
    """Runs ``app`` on ``sock`` until it is told to stop.

    stopping   is set from the first signal on
    drain      blocks until the work is wound up; called on a thread of its own after the first signal
    ready      called once, when requests are answered
    """

    def __init__(
        self,
        app: Any,
        sock: socket.socket,
        *,
        stopping: threading.Event,
        drain: Callable[[], None],
        ready: Callable[[], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=HeadLimits,
                ws="none",
                loop="uvloop",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # The peer is who is connected: whether its headers are believed is decided by the app.
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACEFUL_SECONDS,
                backlog=BACKLOG,
            )
        )
        self._sock = sock
        self._drain = drain
        self._ready = ready
        self._drainer: threading.Thread | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._stopping = stopping

    def serve_forever(self) -> None:
        """Blocks the main thread until the server has stopped."""
        self.run(sockets=[self._sock])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the interpreter between any two steps of the main thread, so it only leaves word.

        A second signal ends the process here and now. Nothing is lost by it: what was accepted is on disk, the
        kernel ends the children, and the next start takes their jobs back.
        """
        if self._stopping.is_set():
            os._exit(1)
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would raise the signal again afterwards: a stop that was asked for is no failure."""
        originals = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, original in originals.items():
                signal.signal(sig, original)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announcing = asyncio.create_task(self._announce())

    async def on_tick(self, counter: int) -> bool:
        if self._stopping.is_set() and self._drainer is None:
            self._drainer = threading.Thread(target=self._drain, name="drain", daemon=True)
            self._drainer.start()
        if self._drainer is not None and not self._drainer.is_alive():
            self.should_exit = True
        return await super().on_tick(counter)

    async def _announce(self) -> None:
        """Say that the server is ready only after it has answered."""
        host, port = self._sock.getsockname()[:2]
        wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not bound to
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(wildcard.get(host, host), port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            await reader.readline()
            writer.close()
        self._ready()
