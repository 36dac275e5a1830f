"""What ties a process to the others on the same database: hints by NOTIFY, the database's clock, its settings.

Hints only: one may come late, twice or never, and where a pooler lends connections by the transaction none comes at
all. Everybody who waits for something polls as well. In a row of hints, those of some milliseconds go together,
because PostgreSQL lets only one transaction at a time commit that notifies.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import orjson
import psycopg

from async_delivery import telemetry
from async_delivery.domain.job import JobId, JobStatus
from async_delivery.domain.tenant import OrgId
from async_delivery.storage.contract import Signal
from async_delivery.storage.postgres_clock import MEASURE_SECONDS, DatabaseClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from async_delivery.storage.postgres_connect import Connection

CHANNEL = "async_delivery"
_LISTEN = f"LISTEN {CHANNEL}".encode()
# A hint need not survive a crash, and all that notify commit in turn: none of them should wait for the disk.
_NOTIFY = f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{CHANNEL}', %s)".encode()
# PostgreSQL refuses 8,000 bytes. A hint has at most 128 + 36 characters of ids and some digits.
_PER_MESSAGE = 32
_GATHER_SECONDS = 0.02
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.25, 4.0
# More is no hint any more; whoever waits will find it by polling.
_MAX_WAITING = 10_000


class Pulse:
    """Two threads: one listens and keeps the clock, one tells the others."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        clock: DatabaseClock,
        hear: Callable[[Signal], Any],
        look: Callable[[Connection], None],
    ) -> None:
        """Start both.

        connect      makes a connection of our own, in autocommit mode. Raises psycopg.Error
        hear         is told what other processes have committed
        look         looks at the database every 10 s; raises psycopg.Error if it is not what it was
        """
        self._connect, self._clock, self._hear, self._look = connect, clock, hear, look
        # True from the loss of the listening connection until there is one again.
        self.away = False
        self._away_since = 0.0
        self._next_at = 0.0
        self._origin = os.urandom(8).hex()  # noqa: TID251  tells our own hints from others'
        self._closed = threading.Event()
        self._wake_receiver, self._wake_sender = os.pipe()
        self._waiting: dict[tuple[str, str], Signal] = {}
        self._has_news = threading.Condition()
        self._threads = [
            threading.Thread(target=self._listen, name="store-listener", daemon=True),
            threading.Thread(target=self._send, name="store-notifier", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, signals: Iterable[Signal]) -> None:
        """Let other processes know, soon."""
        with self._has_news:
            for signal in signals:
                if len(self._waiting) < _MAX_WAITING:
                    self._waiting[signal.org_id, signal.job_id] = signal
            self._has_news.notify()

    def close(self) -> None:
        """End both threads. Idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        os.write(self._wake_sender, b"x")
        with self._has_news:
            self._has_news.notify()
        for thread in self._threads:
            thread.join()
        os.close(self._wake_receiver)
        os.close(self._wake_sender)

    # ------------------------------------------------------------ listening
    def _listen(self) -> None:
        delay = _FIRST_DELAY_SECONDS
        while not self._closed.is_set():
            try:
                with self._connected() as connection:
                    connection.execute(_LISTEN)
                    delay = _FIRST_DELAY_SECONDS
                    self._is_back()
                    while not self._closed.is_set():
                        self._clock.measure(connection)
                        self._look(connection)
                        self._hear_for_a_while(connection)
            except (psycopg.Error, OSError, ValueError) as exc:
                self._is_away(exc)
            self._closed.wait(delay)
            delay = min(2 * delay, _LAST_DELAY_SECONDS)

    def _is_away(self, exc: Exception) -> None:
        if not self.away and not self._closed.is_set():
            self.away, self._away_since = True, self._clock.seconds()
            telemetry.emit("store.away", error=(str(exc).strip().splitlines() or [type(exc).__name__])[0])

    def _is_back(self) -> None:
        if self.away:
            self.away = False
            telemetry.emit("store.back", seconds=self._clock.seconds() - self._away_since)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        connection = self._connect()
        try:
            yield connection
        finally:
            connection.close()

    def _hear_for_a_while(self, connection: Connection) -> None:
        """Until it is time to ask the database again, or to end."""
        until = self._clock.seconds() + MEASURE_SECONDS
        while (left := until - self._clock.seconds()) > 0 and not self._closed.is_set():
            ready, _, _ = select.select([connection.fileno(), self._wake_receiver], [], [], left)
            if connection.fileno() in ready:
                for notice in connection.notifies(timeout=0):
                    self._deliver(notice.payload)

    def _deliver(self, payload: str) -> None:
        try:
            origin, hints = orjson.loads(payload)
            if origin == self._origin:
                return
            heard = [
                Signal(OrgId(org_id), JobId(job_id), JobStatus(status), int(seq), bool(cancel))
                for org_id, job_id, status, seq, cancel in hints
            ]
        except (ValueError, TypeError):
            return  # anybody with a connection may notify
        for signal in heard:
            self._hear(signal)

    # ------------------------------------------------------------ telling
    def _send(self) -> None:
        while not self._closed.is_set():
            with suppress(psycopg.Error, OSError), self._connected() as connection:
                while self._wait_for_news():
                    self._notify(connection, self._take_news())
            self._closed.wait(_FIRST_DELAY_SECONDS)

    def _wait_for_news(self) -> bool:
        with self._has_news:
            self._has_news.wait_for(lambda: self._waiting or self._closed.is_set())
        # The first after a pause goes at once, since somebody may wait for it; what follows is gathered.
        self._closed.wait(max(0.0, self._next_at - self._clock.seconds()))
        self._next_at = self._clock.seconds() + _GATHER_SECONDS
        return not self._closed.is_set() or bool(self._waiting)

    def _take_news(self) -> list[Signal]:
        with self._has_news:
            news = list(self._waiting.values())
            self._waiting.clear()
        return news

    def _notify(self, connection: Connection, news: list[Signal]) -> None:
        for start in range(0, len(news), _PER_MESSAGE):
            hints = [
                [one.org_id, one.job_id, one.status.value, one.event_seq, one.cancel_requested]
                for one in news[start : start + _PER_MESSAGE]
            ]
            try:
                connection.execute(_NOTIFY, (orjson.dumps([self._origin, hints]).decode(),))
            except psycopg.Error:
                if connection.broken:
                    self._take_back(news[start:])
                raise

    def _take_back(self, news: list[Signal]) -> None:
        """Tell it on the next connection: this one has ended, perhaps long ago for want of anything to tell."""
        with self._has_news:
            for signal in news[: _MAX_WAITING - len(self._waiting)]:
                self._waiting.setdefault((signal.org_id, signal.job_id), signal)
