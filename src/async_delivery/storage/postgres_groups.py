"""Writes that nobody waits for on a thread of their own, submits above all: many in one transaction.

One thread takes what waits, runs it in one transaction on one connection, commits once, and only then resolves the
futures; what arrives meanwhile is the next group, and nothing is ever waited for. Plain new jobs are held back until
something is asked that they could change the answer to, or the commit, and then entered by one statement.

A group is a matter of speed alone. Whatever goes wrong in one before its commit, it is rolled back, and each of its
functions runs by itself, where it meets its own fate: no other's error, lock or broken rule is its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus

from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.tenant import OrgId
from async_delivery.storage import statements as sql
from async_delivery.storage.cells import to_micros
from async_delivery.storage.contract import IDEMPOTENCY_TTL_SECONDS, IdempotencyRecord, Signal
from async_delivery.storage.postgres_clock import DatabaseClock
from async_delivery.storage.postgres_pool import Connections
from async_delivery.storage.postgres_session import PostgresTransaction, Session
from async_delivery.storage.postgres_together import ENTRY, TEXTS, entries_of
from async_delivery.storage.postgres_trouble import is_broken, is_not_prepared, unavailable, uncertain
from async_delivery.storage.reading import Cursor
from async_delivery.storage.writing import Write

if TYPE_CHECKING:
    from async_delivery.storage.postgres_connect import Connection

Function: TypeAlias = Callable[[Any], Any]
Waiting: TypeAlias = tuple[Function, "Future[Any]"]
# What a function has returned, or raised.
Answer: TypeAlias = tuple[Any, BaseException | None]

# What one commit is shared by. More would make the first wait, and be run by themselves after one bad apple.
_MAX_FUNCTIONS = 64
# A job whose parameters are longer is entered at once: sixteen of them need not be in memory as one message.
_MAX_HELD_BYTES = 65_536
# No held job changes the answers to these: places are counted on here, and a held key is known.
_UNMOVED = frozenset({TEXTS[sql.PLACES], TEXTS[sql.FIND_KEY]})


class _Holding(Session):
    """A session that enters what it holds before anything else is done on it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._held: list[list[dict[str, Any]]] = []
        self._marked = 0
        # Whether something since the mark has been written, so that only a rollback of all undoes it.
        self.wrote = False

    def hold(self, rows: list[dict[str, Any]]) -> None:
        """Enter a job, later: the rows of ENTRY."""
        self._held.append(rows)

    def hold_key(self, row: dict[str, Any]) -> bool:
        """Enter an Idempotency-Key with the job that was held last; False if it is another's."""
        if not self._held or self._held[-1][0]["job_id"] != row["job_id"]:
            return False
        self._held[-1].append(row)
        return True

    def mark(self) -> None:
        """From here on another function speaks."""
        self._marked, self.wrote = len(self._held), False

    def forget(self) -> None:
        """Drop what was held since the mark."""
        del self._held[self._marked :]

    def enter(self) -> None:
        """Enter what is held. Raises psycopg.Error."""
        held, self._held = self._held, []
        self.wrote = self.wrote or len(held) > self._marked
        self._marked = 0
        _line_up(held)
        for text, values in entries_of(held):
            self.run(text, values)

    @property
    def raw(self) -> Connection:
        self.enter()
        self.wrote = True  # who knows
        return super().raw

    def execute(self, text: str, parameters: Mapping[str, Any] | None = None, /) -> Cursor:
        if self._held and text not in _UNMOVED:
            self.enter()
        self.wrote = self.wrote or not text.startswith("SELECT")
        return super().execute(text, parameters)

    def executemany(self, text: str, rows: Sequence[Mapping[str, Any]], /) -> None:
        self.enter()
        self.wrote = True
        super().executemany(text, rows)


def _line_up(jobs: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Give each tenant's places to its jobs in the order in which they will run, as far as they go by place: who runs
    in another's turn trades places with it, which is a statement."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for job, *_ in jobs:
        if job["place"] is not None:
            lines.setdefault(job["org_id"], []).append(job)
    for line in lines.values():
        places = sorted(job["place"] for job in line)
        line.sort(key=lambda job: (job["priority"], job["job_id"]))
        for job, place in zip(line, places, strict=True):
            job["place"] = place


class GroupTransaction(PostgresTransaction):
    """The transaction of a group. It may be that a new job breaks a rule, and only the end of the group tells."""

    def __init__(self, connection: _Holding, clock: DatabaseClock) -> None:
        super().__init__(connection, TEXTS, clock)
        self._holding = connection
        self._places: dict[OrgId, int] = {}
        # What was asked for and not found, and so is free unless somebody else takes it now; and what is held.
        self._free_keys: set[tuple[OrgId, str]] = set()
        self._held_keys: set[tuple[OrgId, str]] = set()

    def next_place(self, org_id: OrgId) -> int:
        place = self._places.get(org_id)
        if place is None:
            place = super().next_place(org_id)
        self._places[org_id] = place + 1
        return place

    def find_idempotency(self, org_id: OrgId, key: str) -> IdempotencyRecord | None:
        if (org_id, key) in self._held_keys:
            self._holding.enter()
        found = super().find_idempotency(org_id, key)
        if found is None:
            self._free_keys.add((org_id, key))
        return found

    def put_idempotency(
        self, org_id: OrgId, record: IdempotencyRecord, ttl_seconds: int = IDEMPOTENCY_TTL_SECONDS
    ) -> None:
        key = (org_id, record.key)
        row = {
            "org_id": org_id,
            "key": record.key,
            "fingerprint": record.fingerprint,
            "job_id": record.job_id,
            "created_at": to_micros(record.created_at),
        }
        if key in self._free_keys and key not in self._held_keys and self._holding.hold_key(row):
            self._held_keys.add(key)
        else:
            super().put_idempotency(org_id, record, ttl_seconds)

    def write_together(self, writes: Sequence[Write]) -> int:
        if tuple(statement for statement, _ in writes) != ENTRY:
            return super().write_together(writes)
        rows = [dict(params) for _, params in writes]
        if len(rows[1]["params_json"]) > _MAX_HELD_BYTES:
            return super().write_together(writes)
        self._holding.hold(rows)
        return 1


class _GroupError(Exception):
    """Nothing of the group was kept, and each function is to run by itself."""


class Groups:
    """Runs functions on its thread; safe to use from any other."""

    def __init__(
        self,
        connections: Connections,
        clock: DatabaseClock,
        alone: Callable[[Function, Future[Any]], None],
        tell: Callable[[Sequence[Signal]], None],
        away: Callable[[], bool],
        busy: threading.local,
    ) -> None:
        """Start the thread.

        alone   runs a function in a transaction of its own, on some other thread, and resolves its future
        tell    tells what was committed
        away    whether it is known that there is no database now
        busy    what the store knows of the thread it is called on
        """
        self._connections, self._clock = connections, clock
        self._alone, self._tell, self._away, self._busy = alone, tell, away, busy
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
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

    def close(self) -> None:
        """Finish what was queued, then end. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            waiting = [self._queue.get()]
            while waiting[-1] is not None and len(waiting) < _MAX_FUNCTIONS:
                try:
                    waiting.append(self._queue.get_nowait())
                except Empty:
                    break
            ended = waiting[-1] is None
            group = [item for item in waiting if item is not None]
            group = [item for item in group if item[1].set_running_or_notify_cancel()]
            if group:
                self._settle(group)

    def _settle(self, group: Sequence[Waiting]) -> None:
        """Resolve the futures of ``group``, or see that they will be."""
        answers: list[Answer] = []
        failure, signals = None, list[Signal]()
        try:
            signals = self._together(group, answers)
        except UnavailableError as exc:
            # No connection, or a commit whose fate is not known: each would only meet the same, or be done twice.
            failure = exc
        except BaseException:  # noqa: BLE001  whatever it is, each meets it by itself if it is its own
            for function, future in group:
                self._alone(function, future)
            return
        answers += [(None, failure)] * (len(group) - len(answers))
        for (_, future), (value, error) in zip(group, answers, strict=True):
            if error is not None or failure is not None:
                future.set_exception(error or failure)
            else:
                future.set_result(value)
        self._tell(signals)

    def _together(self, group: Sequence[Waiting], answers: list[Answer]) -> list[Signal]:
        """Run ``group`` and commit, and add to ``answers`` what each has returned or raised; what is to be told.

        Raises UnavailableError if no connection is to be had, the commit's fate is not known, or the only function is
        itself to blame for a lost connection; anything else means that nothing was kept."""
        committing = False
        with self._connections.lent("refuses to write", away=self._away()) as connection:
            session = _Holding(connection)
            transaction = GroupTransaction(session, self._clock)
            self._busy.writing = True
            try:
                self._connections.begin_group(connection)
                answers += [_answer(function, session, transaction) for function, _ in group]
                session.enter()
                committing = True
                self._connections.commit(connection)
            except psycopg.Error as exc:
                if is_not_prepared(exc):
                    self._connections.prepare_no_more()
                elif committing and is_broken(exc, connection):
                    raise uncertain(exc) from exc
                elif len(group) == 1 and connection.broken and not is_broken(exc, connection):
                    raise unavailable(exc, "refuses to write") from exc
                raise _GroupError from exc
            finally:
                self._busy.writing = False
                self._connections.end(connection)
        return transaction.signals


def _answer(function: Function, session: _Holding, transaction: GroupTransaction) -> Answer:
    """What ``function`` has returned or raised, having left nothing behind in the second case.

    Raises _GroupError, or what the driver raises, if only a rollback of the whole group would see to that."""
    session.mark()
    told = len(transaction.signals)
    try:
        return function(transaction), None
    except psycopg.Error:
        raise
    except BaseException as exc:
        if session.wrote or session.status is not TransactionStatus.INTRANS:
            raise _GroupError from exc
        session.forget()
        del transaction.signals[told:]
        return None, exc
