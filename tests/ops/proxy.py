"""A proxy between a program under test and a live server: records what passes, and can change single answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Change = Callable[[str, str, int, dict[str, Any]], tuple[int, dict[str, Any]]]
_DEADLINE_SECONDS = 60.0
_KEPT = ("Content-Type", "X-Request-Id", "ETag")


class Proxy:
    """``seen``: (method, path with query) in the order of their arrival."""

    def __init__(self, port: int, change: Change | None) -> None:
        self.seen: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                proxy.seen.append((self.command, self.path))
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                onwards = HTTPConnection("127.0.0.1", port, timeout=_DEADLINE_SECONDS)
                try:
                    headers = {
                        name: value
                        for name, value in self.headers.items()
                        if name.lower() not in ("host", "connection", "accept-encoding")
                    }
                    onwards.request(self.command, self.path, body, headers)
                    got = onwards.getresponse()
                    status, data, kept = got.status, got.read(), dict(got.getheaders())
                finally:
                    onwards.close()
                if change is not None:
                    status, changed = change(self.command, self.path, status, _parsed(data))
                    data = json.dumps(changed).encode()
                self.send_response(status)
                for name, value in kept.items():
                    if name.title() in _KEPT or name in _KEPT:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _pass_on  # noqa: N815  names of the library

            def log_message(self, format: str, *args: Any) -> None:
                """Tests are quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def proxy_to(port: int, change: Change | None = None) -> Iterator[Proxy]:
    """A proxy before the server on ``port``.

    change   (method, path, status, body) -> the status and the body that are answered instead
    """
    proxy = Proxy(port, change)
    try:
        yield proxy
    finally:
        proxy.close()
