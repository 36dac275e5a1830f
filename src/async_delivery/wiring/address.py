"""The address a server listens on: bound before anything else is done, so that a taken port costs nothing."""

from __future__ import annotations

import errno
import socket

# Connections that wait to be accepted.
BACKLOG = 2048


class StartError(Exception):
    """The server cannot start; says why in one line."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises StartError."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise StartError(f"cannot listen on {host}: {getattr(exc, 'strerror', None) or exc}") from exc
    # A name with both kinds of address, such as localhost, means the kind that every client tries.
    found.sort(key=lambda each: each[0] is not socket.AF_INET)
    family, kind, proto, _, address = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Bound is not enough: two may be bound to one address until the first of them listens.
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        hint = "; choose another one with --port" if exc.errno == errno.EADDRINUSE else ""
        raise StartError(f"cannot listen on {host} port {port}: {exc.strerror}{hint}") from exc
    return sock


def url_of(sock: socket.socket) -> str:
    """``http://127.0.0.1:8080``"""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
