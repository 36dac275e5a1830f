"""A host that can be cut off: processes in a network namespace, with a relay to PostgreSQL as their only way out.

The relay stands on this side of a pair of virtual interfaces and passes on to PostgreSQL's socket. When the pair is
taken down the host's packets go nowhere and nobody is told, as when a machine loses its power or its switch: its
sessions at PostgreSQL stay open. Where there is no right to make namespaces, the relay falls silent instead.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Self

import psycopg.conninfo

from tests.reliability.fleet import Worker, is_up
from tests.system.live import COMMAND

_numbers = count(1)


class Relay:
    """Passes TCP connections on to a socket of PostgreSQL. While ``silent`` it passes nothing, and closes nothing."""

    def __init__(self, address: str, url: str) -> None:
        said = psycopg.conninfo.conninfo_to_dict(url)
        self._target = f"{said['host']}/.s.PGSQL.{said.get('port', 5432)}"
        self._listener = socket.create_server((address, 0))
        port = self._listener.getsockname()[1]
        self.url = f"postgresql://{said.get('user', 'postgres')}@{address}:{port}/{said['dbname']}"
        self.silent = threading.Event()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(30)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            if self._ready(self._listener):
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._pass_on, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _ready(self, *sockets: socket.socket) -> list[socket.socket]:
        if self.silent.is_set():
            self._closed.wait(0.02)
            return []
        return select.select(sockets, [], [], 0.02)[0]

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server, suppress(OSError):
            server.connect(self._target)
            while not self._closed.is_set():
                for one in self._ready(client, server):
                    data = one.recv(65_536)
                    if not data:
                        return
                    (server if one is client else client).sendall(data)


class FarHost:
    """A host of its own, or what comes nearest to it here; ``how`` says which."""

    def __init__(self, url: str) -> None:
        self._name = f"ad{os.getpid() % 100_000}n{next(_numbers)}"
        self._namespace = self._make()
        self.how = "network namespace" if self._namespace else "relay that falls silent"
        self._relay = Relay(self._here if self._namespace else "127.0.0.1", url)
        self.url = self._relay.url
        self.command: Sequence[str] = ("ip", "netns", "exec", self._name) if self._namespace else ()

    def _make(self) -> bool:
        """A namespace with one end of a pair of interfaces. False where that is not to be had."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        # 198.18.0.0/15 is set apart for tests of networks (RFC 2544).
        self._here, self._there = f"198.18.{os.getpid() % 250}.1", f"198.18.{os.getpid() % 250}.2"
        near, far = f"{self._name}a", f"{self._name}b"
        if not self._ip("netns", "add", self._name):
            return False
        made = (
            self._ip("link", "add", near, "type", "veth", "peer", "name", far)
            and self._ip("link", "set", far, "netns", self._name)
            and self._ip("addr", "add", f"{self._here}/30", "dev", near)
            and self._ip("link", "set", near, "up")
            and self._ip("-n", self._name, "addr", "add", f"{self._there}/30", "dev", far)
            and self._ip("-n", self._name, "link", "set", far, "up")
            and self._ip("-n", self._name, "link", "set", "lo", "up")
        )
        if not made:
            self._remove()
        return made

    def _ip(self, *words: str) -> bool:
        return subprocess.run(["ip", *words], capture_output=True, timeout=30, check=False).returncode == 0

    def _remove(self) -> None:
        self._ip("link", "del", f"{self._name}a")
        self._ip("netns", "del", self._name)

    def cut_off(self, *, one_way: bool = False) -> None:
        """From here on nothing comes or goes; ``one_way``: what the far host sends arrives, and nothing gets back."""
        if self._namespace and one_way:
            assert self._ip("route", "add", "blackhole", f"{self._there}/32")
        elif self._namespace:
            assert self._ip("link", "set", f"{self._name}a", "down")
        else:
            self._relay.silent.set()

    def connect(self) -> None:
        """The way is there again."""
        if self._namespace:
            self._ip("route", "del", "blackhole", f"{self._there}/32")
            assert self._ip("link", "set", f"{self._name}a", "up")
        else:
            self._relay.silent.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.connect()
            self._relay.close()
        finally:
            if self._namespace:
                self._remove()


class FarWorker(Worker):
    """A worker on a far host. Its port is there as well, so its word that it takes jobs is what is waited for."""

    far: FarHost

    def launch(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.far.command, COMMAND, self.command, "--port", str(self.port), *self.options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def answers(self) -> bool:
        assert is_up(self), self.log()[-2000:]
        return "takes:" in self.log()
