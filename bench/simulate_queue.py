"""The queue of the simulation: the service's own rule of whose turn it is, on lines in memory instead of a database.

The rule is not written again here. ``FairQueue`` is a transaction of the store whose statements are answered from
memory, so ``next_place`` and ``claimable`` are those of the service. That the answers are those of a database is
held by a test, which gives the same jobs to both. ``ArrivalQueue`` is what fairness is compared with.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, cast

from async_delivery.domain.job import Priority
from async_delivery.domain.tenant import OrgId
from async_delivery.storage import statements as sql
from async_delivery.storage.dialects import SQLITE, Texts
from async_delivery.storage.writing import SqlTransaction

if TYPE_CHECKING:
    from sqlalchemy.sql.expression import ClauseElement

    from async_delivery.domain.job import Job
    from async_delivery.storage.cells import Row
    from async_delivery.storage.reading import Cursor

_NO_MATTER = datetime(2026, 1, 1, tzinfo=UTC)  # no job of the simulation waits for a time


class Queue(Protocol):
    """Jobs wait in it; ``take`` says which are next. Ids rise with the order of arrival."""

    def join(self, job_id: str, tenant: str) -> None:
        """A job arrives."""

    def take(self, limit: int) -> list[str]:
        """The ids of up to ``limit`` jobs that start now."""

    def __len__(self) -> int:
        """How many wait."""


class ArrivalQueue:
    """First come, first served: what most queues do."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()

    def join(self, job_id: str, tenant: str) -> None:
        """Last in line, whoever it is."""
        self._waiting.append(job_id)

    def take(self, limit: int) -> list[str]:
        """The oldest."""
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def __len__(self) -> int:
        return len(self._waiting)


class _Rows:
    """A cursor over rows that are there already, or are found as they are fetched."""

    def __init__(self, rows: Iterable[Any], rowcount: int = -1) -> None:
        self._rows = iter(rows)
        self.rowcount = rowcount

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchmany(self, size: int = 1, /) -> list[Any]:
        return list(islice(self._rows, size))

    def fetchall(self) -> list[Any]:
        return list(self._rows)


class _Unwritten(Texts):
    """A statement's text is the statement itself: nobody parses it here."""

    def __missing__(self, statement: ClauseElement) -> str:
        return cast("str", statement)


class _Lines:
    """The lines of all tenants, in place of a connection: answers the statements of dispatch, and no others."""

    def __init__(self) -> None:
        self.running: dict[str, str] = {}
        # job id -> (place, tenant, analysis, priority)
        self._jobs: dict[str, tuple[int, str, str, int]] = {}
        # Rows of the queue: places in order, and the jobs at each, by id.
        self._places: list[int] = []
        self._rows: dict[int, list[tuple[str, str]]] = {}
        # Each tenant's line twice: by place, and by analysis in the order the tenant wants.
        self._tenants: list[str] = []
        self._lines: dict[str, list[tuple[int, str]]] = {}
        self._wishes: dict[str, dict[str, list[tuple[int, str]]]] = {}
        self._answers: dict[ClauseElement, Callable[[Mapping[str, Any]], _Rows]] = {
            sql.PLACES: self._find_places,
            sql.FIND_DUE: lambda _: _Rows([]),
            sql.LIST_FRONT: self._list_front,
            sql.FIRST_TENANT: self._first_tenant,
            sql.NEXT_TENANT: self._next_tenant,
            sql.LIST_PLACES_OF_TENANT: self._list_places,
            sql.NEXT_ANALYSIS_OF_TENANT: self._next_analysis,
            sql.LIST_NEXT_OF_TENANT: self._list_next,
            sql.LIST_RUNNING_TENANTS: lambda _: _Rows([(org_id,) for org_id in self.running.values()]),
            sql.SET_PLACE: self._set_place,
        }

    def execute(self, text: str, parameters: Any = None, /) -> Cursor:
        """Raises NotImplementedError for a statement that there is no answer to."""
        answer = self._answers.get(cast("ClauseElement", text))
        if answer is None:
            raise NotImplementedError(f"the simulation has no answer to {text}")
        return answer(parameters)

    def __len__(self) -> int:
        return len(self._jobs)

    def enter(self, job_id: str, place: int, tenant: str, analysis: str, priority: int) -> None:
        self._jobs[job_id] = (place, tenant, analysis, priority)
        row = self._rows.get(place)
        if row is None:
            row = self._rows[place] = []
            insort(self._places, place)
        insort(row, (job_id, tenant))
        if tenant not in self._lines:
            insort(self._tenants, tenant)
            self._lines[tenant], self._wishes[tenant] = [], {}
        insort(self._lines[tenant], (place, job_id))
        insort(self._wishes[tenant].setdefault(analysis, []), (priority, job_id))

    def leave(self, job_id: str) -> tuple[int, str, str, int]:
        place, tenant, analysis, priority = left = self._jobs.pop(job_id)
        row, line, wishes = self._rows[place], self._lines[tenant], self._wishes[tenant][analysis]
        del row[bisect_left(row, (job_id, tenant))]
        del line[bisect_left(line, (place, job_id))]
        del wishes[bisect_left(wishes, (priority, job_id))]
        if not row:
            del self._rows[place]
            del self._places[bisect_left(self._places, place)]
        if not wishes:
            del self._wishes[tenant][analysis]
        if not line:
            del self._lines[tenant], self._wishes[tenant]
            del self._tenants[bisect_left(self._tenants, tenant)]
        return left

    # ------------------------------------------------------------ the statements
    def _find_places(self, params: Mapping[str, Any]) -> _Rows:
        line = self._lines.get(params["the_org_id"])
        return _Rows([(self._places[0] if self._places else None, line[-1][0] if line else None)])

    def _list_front(self, params: Mapping[str, Any]) -> _Rows:
        return _Rows(islice(self._front(), params["at_most"]))

    def _front(self) -> Iterator[tuple[int, str, str]]:
        for place in self._places:
            for job_id, tenant in self._rows[place]:
                yield place, job_id, tenant

    def _first_tenant(self, _: Mapping[str, Any]) -> _Rows:
        return _Rows([(self._tenants[0] if self._tenants else None,)])

    def _next_tenant(self, params: Mapping[str, Any]) -> _Rows:
        at = bisect_right(self._tenants, params["the_org_id"])
        return _Rows([(self._tenants[at] if at < len(self._tenants) else None,)])

    def _list_places(self, params: Mapping[str, Any]) -> _Rows:
        tenant = params["the_org_id"]
        line = self._lines.get(tenant, [])
        return _Rows([(place, job_id, tenant) for place, job_id in line[: params["at_most"]]])

    def _next_analysis(self, params: Mapping[str, Any]) -> _Rows:
        names = self._wishes.get(params["the_org_id"], {})
        return _Rows([(min((name for name in names if name > params["the_analysis"]), default=None),)])

    def _list_next(self, params: Mapping[str, Any]) -> _Rows:
        wishes = self._wishes.get(params["the_org_id"], {}).get(params["the_analysis"], [])
        return _Rows(
            # The id stands for the row of the job.
            (priority, job_id, self._jobs[job_id][0], job_id)
            for priority, job_id in wishes[: params["at_most"]]
        )

    def _set_place(self, params: Mapping[str, Any]) -> _Rows:
        _, tenant, analysis, priority = self.leave(params["the_job_id"])
        self.enter(params["the_job_id"], params["place"], tenant, analysis, priority)
        return _Rows([], rowcount=1)


class FairQueue(SqlTransaction):
    """The service's rule over lines in memory.

    cap   attempts of one tenant at a time, as max_running_per_tenant; None means no such limit
    """

    def __init__(self, cap: int | None = None) -> None:
        self._lines = _Lines()
        super().__init__(self._lines, _Unwritten(SQLITE))
        self._cap = cap

    def to_job(self, row: Row) -> Job:
        """Only its id is asked for here, so the id stands for the job, and for its row."""
        return cast("Job", row[0])

    def join(
        self, job_id: str, tenant: str, *, analysis: str = "simulated", priority: int = Priority.DEFAULT
    ) -> None:
        """A job arrives, and gets the place that the service would give it."""
        self._lines.enter(job_id, self.next_place(OrgId(tenant)), tenant, analysis, int(priority))

    def take(self, limit: int) -> list[str]:
        """Whose turn the service says it is."""
        taken = [cast("str", job) for job in self.claimable(limit, None, self._cap, _NO_MATTER)]
        for job_id in taken:
            _, tenant, _, _ = self._lines.leave(job_id)
            if self._cap is not None:
                self._lines.running[job_id] = tenant
        return taken

    def end(self, job_id: str) -> None:
        """An attempt is over; only counted where there is a cap."""
        self._lines.running.pop(job_id, None)

    def __len__(self) -> int:
        return len(self._lines)
