"""Things that stand between the store and PostgreSQL: one that cuts connections at COMMIT, one that lends them.

Both listen on a socket of their own folder and speak just enough of the protocol (PostgreSQL, chapter "Frontend/
Backend Protocol") to do their harm at the right moment.
"""

from __future__ import annotations

import select
import shutil
import socket
import struct
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import psycopg.conninfo

_SOCKET = ".s.PGSQL.5432"
_STARTUP = 196_608
_READY_IDLE = b"Z\x00\x00\x00\x05I"


class _Between:
    """Accepts clients on a thread, and serves each on a thread of its own."""

    def __init__(self, url: str) -> None:
        said = psycopg.conninfo.conninfo_to_dict(url)
        self._target = f"{said['host']}/.s.PGSQL.{said.get('port', 5432)}"
        # Short: the path of a socket has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="ad-px-"))
        self.url = f"postgresql://{said.get('user', 'postgres')}@/{said['dbname']}?host={self._folder}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder / _SOCKET))
        self._listener.listen(64)
        self._closed = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for thread in self._threads:
            thread.join(30)
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while not self._closed:
            if select.select([self._listener], [], [], 0.02)[0]:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve_until_gone, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve_until_gone(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError):
            self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        raise NotImplementedError

    def _to_server(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._target)
        return server

    def _ready(self, *sockets: socket.socket) -> list[socket.socket]:
        while not self._closed:
            if found := select.select(sockets, [], [], 0.02)[0]:
                return found
        raise EOFError


class Cutter(_Between):
    """Passes everything on, until ``cut`` says at which side of a COMMIT the connection is lost.

    before   the server never hears of it
    after    the server has done it, and its answer is lost
    """

    def __init__(self, url: str) -> None:
        self.cut: str | None = None
        self.cuts = 0
        super().__init__(url)

    def _serve(self, client: socket.socket) -> None:
        with self._to_server() as server:
            while True:
                for one in self._ready(client, server):
                    data = one.recv(65_536)
                    if not data:
                        return
                    if one is client and self.cut and b"COMMIT\0" in data:
                        self.cuts += 1
                        if self.cut == "after":
                            server.sendall(data)
                            self._ready(server)
                        return
                    (server if one is client else client).sendall(data)


class Pooler(_Between):
    """Lends connections by the transaction, each time the one that has waited longest: whatever a client has left in
    a session, it finds another one the next time. Statements that were prepared are not carried over."""

    def __init__(self, url: str, sessions: int = 3) -> None:
        self._lock = threading.Condition()
        said = psycopg.conninfo.conninfo_to_dict(url)
        self._startup = b"".join(
            f"{name}\0{value}\0".encode()
            for name, value in (("user", said.get("user", "postgres")), ("database", said["dbname"]))
        )
        self._free: list[socket.socket] = []
        self._greeting = b""
        self.lent = 0
        super().__init__(url)
        for _ in range(sessions):
            self._free.append(self._new_session())

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for session in self._free:
            session.close()

    def _new_session(self) -> socket.socket:
        session = self._to_server()
        body = struct.pack("!i", _STARTUP) + self._startup + b"\0"
        session.sendall(struct.pack("!i", len(body) + 4) + body)
        greeting = b""
        while not greeting.endswith(_READY_IDLE):
            greeting += session.recv(65_536)
        self._greeting = greeting
        return session

    def _serve(self, client: socket.socket) -> None:
        self._take_startup(client)
        client.sendall(self._greeting)
        while True:
            first = client.recv(65_536) if self._ready(client) else b""
            if not first or first.startswith(b"X"):
                return
            with self._lock:
                while not self._free:
                    self._lock.wait(0.02)
                    if self._closed:
                        return
                session = self._free.pop(0)
                self.lent += 1
            try:
                self._lend(client, session, first)
            except (OSError, EOFError):
                # The client went in the midst of a transaction: what it left open ends with its session.
                session.close()
                session = self._new_session()
                raise
            finally:
                with self._lock:
                    self._free.append(session)
                    self._lock.notify()

    def _take_startup(self, client: socket.socket) -> None:
        while True:
            (length,) = struct.unpack("!i", client.recv(4, socket.MSG_WAITALL))
            (kind,) = struct.unpack("!i", client.recv(length - 4, socket.MSG_WAITALL)[:4])
            if kind == _STARTUP:
                return
            client.sendall(b"N")  # neither TLS nor GSSAPI

    def _lend(self, client: socket.socket, session: socket.socket, first: bytes) -> None:
        """Until the session is outside of a transaction and has answered everything."""
        session.sendall(first)
        while True:
            for one in self._ready(client, session):
                data = one.recv(65_536)
                if not data:
                    raise EOFError
                (session if one is client else client).sendall(data)
                if one is session and data.endswith(_READY_IDLE):
                    return
