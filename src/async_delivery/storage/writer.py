"""One writer thread with group commit: many functions, one durable transaction.

Knows nothing of tables. It takes the first function that waits, opens a transaction, runs each further function in a
savepoint of its own, takes what has arrived meanwhile (within bounds), commits, and only then resolves the
futures. With nothing waiting a function costs exactly one commit.

A commit costs as much as several functions, and callers that are busy come back as soon as they are answered. So a
transaction waits, but only a moment, until as many have come as were about last time. One who is alone never waits.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Protocol

from async_delivery.domain.errors import UnavailableError
from async_delivery.storage.sqlite_trouble import DATABASE_FAULTS, is_trouble

# At 256 the cost of a commit is spread so thin that more would only make the first one wait.
MAX_FUNCTIONS = 256
MAX_SECONDS = 0.010
# About what a commit takes; and the pause after which those who were about may have gone.
COMPANY_SECONDS = 0.001
COMPANY_LASTS_SECONDS = 0.005

Function = Callable[[Any], Any]
Waiting = tuple[Function, "Future[Any]"]


class Session(Protocol):
    """The connection as the writer uses it. Every method may raise sqlite3.Error where it says so."""

    def begin(self) -> Any:
        """Take the right to write and open a transaction; returns what functions are given.

        Raises UnavailableError having given up the right again, or sqlite3.Error."""

    def mark(self, transaction: Any) -> Any:
        """Open a savepoint; returns what ``undo`` needs. Raises sqlite3.Error."""

    def keep(self) -> None:
        """Release the savepoint. Raises sqlite3.Error."""

    def undo(self, transaction: Any, mark: Any) -> bool:
        """Back to the savepoint. False if the database has given up the whole transaction."""

    def restart(self, transaction: Any) -> bool:
        """Back to the begin of the transaction, which goes on. False if the database has given it up."""

    def commit(self) -> None:
        """Make it durable, checkpoint included, and give up the right to write. Raises sqlite3.Error."""

    def abandon(self, exc: BaseException) -> None:
        """Roll back whatever is open after ``exc``, give up the right to write; drop the connection unless ``exc``
        leaves no doubt about it."""

    def make_room(self, exc: BaseException) -> bool:
        """True if it failed for want of room and there is some now, so that the same may succeed. Not for ever."""

    def explain(self, exc: BaseException) -> UnavailableError:
        """What callers hear of an error of the database."""

    def tell(self, transaction: Any) -> None:
        """Tell subscribers of what was committed."""

    def close(self) -> None:
        """Let go of the connection."""


class Writer:
    """Runs functions on its thread; safe to call from any other."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Function) -> Future[Any]:
        """Queue ``function``; the future is done after the commit. Raises UnavailableError when closed."""
        future: Future[Any] = Future()
        # The lock keeps a function from being queued behind the end of the queue, where nobody would run it.
        with self._lock:
            if self._closed:
                raise UnavailableError("the store is closed")
            self._queue.put((function, future))
        return future

    @property
    def is_current_thread(self) -> bool:
        """True on the writer's own thread, where waiting for a write would wait for ever."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Finish what was queued, then end. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            item, about = self._queue.get(), 1
            while item is not None:
                batch = _Batch(self._session, self._queue, about)
                batch.run(item)
                if batch.ended:
                    break
                about, ended_at = batch.seen, monotonic()
                item = self._queue.get()
                if monotonic() - ended_at > COMPANY_LASTS_SECONDS:
                    about = 1
        finally:
            self._session.close()


class _Batch:
    """One transaction of the writer.

    about   how many functions will probably come, if it waits for them a moment
    seen    how many it has run, and how many had come by then for the next one
    ended   once the end of the queue was met
    Functions run once more if there was no room for their transaction and the session could make some.
    """

    def __init__(self, session: Session, queue: SimpleQueue[Waiting | None], about: int) -> None:
        self._session, self._queue = session, queue
        self._about = about
        self._patient_until: float | None = None
        self._next: Waiting | None = None
        self._begun: list[Waiting] = []
        self._done: list[tuple[Future[Any], Any]] = []
        self._failed: list[tuple[Future[Any], BaseException]] = []
        self._running: Future[Any] | None = None
        self.seen = 1
        self.ended = False

    def run(self, first: Waiting) -> None:
        self._next = first
        while not self._turn():
            self._done, self._failed, self._running = [], [], None

    def _turn(self) -> bool:
        """False if it is to be tried again."""
        try:
            transaction = self._session.begin()
        except UnavailableError as exc:
            self._refuse(exc)
            return True
        except DATABASE_FAULTS as exc:
            self._session.abandon(exc)
            if self._session.make_room(exc):
                return False
            self._refuse(self._unavailable(exc))
            return True
        committing = False
        try:
            self._run_functions(transaction)
            committing = True
            self._session.commit()
        except DATABASE_FAULTS as exc:
            # The whole transaction is gone (disk full, I/O error): nothing in it may be acknowledged.
            self._session.abandon(exc)
            if self._session.make_room(exc):
                return False
            self._lose(self._uncertain(exc) if committing else self._unavailable(exc))
            return True
        # Before they are answered: who comes back at once is not one more.
        self.seen = len(self._begun) + self._queue.qsize()
        for future, value in self._done:
            future.set_result(value)
        for future, error in self._failed:
            future.set_exception(error)
        self._session.tell(transaction)
        return True

    def _run_functions(self, transaction: Any) -> None:
        session = self._session
        stop_at = monotonic() + MAX_SECONDS
        for function, future in self._begun:
            self._running = future
            self._call(session, transaction, function, future)
        self._running = None
        while len(self._done) < MAX_FUNCTIONS and (not self._begun or monotonic() < stop_at):
            item = self._take() or self._wait_for_company()
            if item is None:
                return
            function, future = item
            if future.set_running_or_notify_cancel():
                self._begun.append(item)
                self._running = future
                self._call(session, transaction, function, future)
                self._running = None

    def _take(self) -> Waiting | None:
        """What waits, if anything does; notes the end of the queue."""
        if self._next is not None:
            item, self._next = self._next, None
            return item
        if self.ended:
            return None
        return self._get()

    def _wait_for_company(self) -> Waiting | None:
        """What comes soon, where more were about than have come."""
        if self.ended or len(self._begun) >= self._about:
            return None
        if self._patient_until is None:
            self._patient_until = monotonic() + COMPANY_SECONDS
        left = self._patient_until - monotonic()
        return self._get(left) if left > 0 else None

    def _get(self, timeout_seconds: float = 0.0) -> Waiting | None:
        try:
            following = self._queue.get(timeout_seconds > 0, timeout_seconds)
        except Empty:
            return None
        self.ended = following is None
        return following

    def _call(self, session: Session, transaction: Any, function: Function, future: Future[Any]) -> None:
        # The first needs no savepoint: there is nothing yet that must outlive it. A savepoint costs two statements, and
        # a copy of each page that is written after it.
        first = not self._done
        mark = None if first else session.mark(transaction)
        try:
            value = function(transaction)
            if not first:
                session.keep()
        except BaseException as exc:
            if not (session.restart(transaction) if first else session.undo(transaction, mark)):
                raise exc if isinstance(exc, DATABASE_FAULTS) else sqlite3.OperationalError(str(exc)) from exc
            own = self._unavailable(exc) if is_trouble(exc) else exc
            self._failed.append((future, own))
        else:
            self._done.append((future, value))

    def _lose(self, error: UnavailableError) -> None:
        if self._running is not None:
            self._running.set_exception(error)
        for future, _ in self._done:
            future.set_exception(error)
        for future, own in self._failed:
            future.set_exception(own)

    def _refuse(self, error: UnavailableError) -> None:
        """Fail all that waits now: each would only wait as long again for the same answer."""
        for _, future in self._begun:
            future.set_exception(error)
        while (item := self._take()) is not None:
            if item[1].set_running_or_notify_cancel():
                item[1].set_exception(error)

    def _unavailable(self, exc: BaseException) -> UnavailableError:
        error = self._session.explain(exc)
        error.__cause__ = exc
        return error

    def _uncertain(self, exc: BaseException) -> UnavailableError:
        if getattr(exc, "sqlite_errorname", "").startswith("SQLITE_FULL"):
            return self._unavailable(exc)  # there was no room for the commit, so it is not there
        error = UnavailableError(
            f"the database failed to commit: {exc}; whether the change was kept is not known"
        )
        error.__cause__ = exc
        return error
