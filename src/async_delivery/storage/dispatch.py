"""Fair dispatch: which waiting jobs run next. Works on statements alone; knows no dialect.

A waiting job has a ``place``, a number it gets when it enters the queue: one more than the last of its tenant's
line, but not less than the lowest place now in any line. Turns go by place, so tenants alternate however long
their lines are, without a counter anywhere. Whose turn it is decides the place; which of the tenant's jobs runs
in it is the tenant's own affair: expedite before default, then older ones. If that is another job than the one
at this place, the two trade places, so a line never has fewer turns than jobs.

Where several processes write at once, jobs of one tenant that arrive together may get the same place. That would
be several turns in one round, so of those only one counts now, and a claim moves the others to the end of their line.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from async_delivery.domain.job import Job
from async_delivery.domain.tenant import OrgId
from async_delivery.storage import cells
from async_delivery.storage import statements as sql

if TYPE_CHECKING:
    from async_delivery.storage.writing import SqlTransaction

_PROMOTED_AT_ONCE = 1000
# Turns looked at from the front of the queue before asking tenant by tenant.
_FRONT = 64
_FETCHED = 4
# More than may well arrive together; what is left goes at the next claim.
_SPREAD_AT_ONCE = 500

Turn = tuple[int, str, str]
# Priority, job_id, place; and the job's row, which is never compared, as no two have one id.
Waiting = tuple[int, str, int, cells.Row]


def promote_due(tx: SqlTransaction, now: datetime) -> None:
    """Let delayed jobs whose time has come join their tenant's line."""
    due = tx.run(sql.FIND_DUE, {"now": cells.to_micros(now), "at_most": _PROMOTED_AT_ONCE}).fetchall()
    for job_id, org_id in due:
        tx.run(sql.PROMOTE, {"the_job_id": job_id, "the_org_id": org_id, "place": tx.next_place(org_id)})


def claimable(
    tx: SqlTransaction, limit: int, analyses: Sequence[str] | None, max_running_per_tenant: int | None
) -> list[Job]:
    """Up to ``limit`` waiting jobs in the order of their turns."""
    picker = _Picker(tx, limit, analyses, max_running_per_tenant)
    window = max(_FRONT, 4 * limit)
    front = _Front(tx, window)
    if tx.places_are_shared:
        turns = list(front)
        picker.expect(turns)
        picker.offer(turns)
    else:
        picker.offer(front)
    if not picker.full and front.seen == window:
        # The front is taken up by tenants at their cap or by analyses not asked for: one short line per tenant
        # instead of everything that waits.
        picker.offer(turn for turn in _turns_by_tenant(tx, limit) if turn > front.last)
    picker.trade_places()
    if tx.places_are_shared:
        picker.spread_places()
    return picker.jobs()


def claimable_at_once(tx: SqlTransaction, analyses: Sequence[str] | None, now: datetime) -> Job | None:
    """The one job that ``claimable`` would find, where two statements can tell: nobody else writes, there is no cap, no
    delay is over, and whose turn it is waits for a single analysis. None where it takes a closer look."""
    ahead = tx.run(sql.LOOK_AHEAD, {}).fetchone()
    if ahead is None:
        return None
    job_id, org_id, analysis, last_analysis, due_at = ahead
    if analysis != last_analysis or (due_at is not None and due_at <= cells.to_micros(now)):
        return None
    if analyses is not None and analysis not in analyses:
        return None
    params = {"the_org_id": org_id, "the_analysis": analysis, "at_most": 1}
    (_, best_id, its_place, *row) = tx.run(sql.LIST_NEXT_OF_TENANT, params).fetchone()
    if best_id != job_id:
        tx.run(sql.SET_PLACE, {"the_job_id": job_id, "the_org_id": org_id, "place": its_place})
    return tx.to_job(row)


class _Front:
    """The turns at the front of the queue, fetched as they are needed, and how far they went."""

    def __init__(self, tx: SqlTransaction, window: int) -> None:
        self._shared = tx.places_are_shared
        self._cursor = tx.run(sql.LIST_FRONT, {"at_most": window})
        self.seen = 0
        self.last: Turn = (0, "", "")

    def __iter__(self) -> Iterator[Turn]:
        return self._in_rounds() if self._shared else self._as_they_are()

    def _in_rounds(self) -> Iterator[Turn]:
        """One turn for each tenant in a round, also where several share a place."""
        turns: list[Turn] = [(place, job_id, org_id) for place, job_id, org_id in self._cursor.fetchall()]
        self.seen, self.last = len(turns), turns[-1] if turns else self.last
        rounds: dict[str, int] = {}
        ranked = []
        for turn in turns:
            place, job_id, org_id = turn
            rounds[org_id] = rank = max(place, rounds.get(org_id, place - 1) + 1)
            ranked.append((rank, job_id, turn))
        return (turn for _, _, turn in sorted(ranked))

    def _as_they_are(self) -> Iterator[Turn]:
        while turns := self._cursor.fetchmany(_FETCHED):
            for turn in turns:
                self.seen += 1
                self.last = tuple(turn)
                yield self.last


def _turns_by_tenant(tx: SqlTransaction, limit: int) -> Iterator[Turn]:
    lines = []
    org_id = tx.run(sql.FIRST_TENANT, {}).fetchone()[0]
    while org_id is not None:
        places = tx.run(sql.LIST_PLACES_OF_TENANT, {"the_org_id": org_id, "at_most": limit}).fetchall()
        lines.append([(place, job_id, owner) for place, job_id, owner in places])
        org_id = tx.run(sql.NEXT_TENANT, {"the_org_id": org_id}).fetchone()[0]
    return heapq.merge(*lines)


class _Picker:
    """Goes through turns and gives each to the next job of its tenant."""

    def __init__(
        self, tx: SqlTransaction, limit: int, analyses: Sequence[str] | None, cap: int | None
    ) -> None:
        self._tx, self._limit, self._analyses, self._cap = tx, limit, analyses, cap
        self._running: Mapping[str, int] = {}
        if cap is not None:
            tx.serialize_claims()
            found = tx.run(sql.LIST_RUNNING_TENANTS, {}).fetchall()
            self._running = Counter(org_id for (org_id,) in found)
        self._lines: dict[str, list[Waiting]] = {}
        self._asked: dict[str, int] = {}
        self._likely: Counter[str] | None = None
        self._taken: dict[str, int] = {}
        self._picked: list[tuple[Turn, Waiting]] = []

    @property
    def full(self) -> bool:
        return len(self._picked) >= self._limit

    def expect(self, turns: Iterable[Turn]) -> None:
        """Turns that will probably be given. What is looked at is locked, so others who claim find more the less
        is looked at; alone on the store, it costs least to ask a tenant once."""
        self._likely = Counter(turn[2] for turn in islice(turns, self._limit))

    def offer(self, turns: Iterable[Turn]) -> None:
        """Give ``turns``, lowest first, to jobs until there are enough."""
        for turn in turns:
            if self.full:
                return
            self._give(turn)

    def _give(self, turn: Turn) -> None:
        org_id = turn[2]
        taken = self._taken.get(org_id, 0)
        if self._cap is not None and self._running.get(org_id, 0) + taken >= self._cap:
            return
        line = self._line(org_id, taken + 1)
        if taken < len(line):
            self._taken[org_id] = taken + 1
            self._picked.append((turn, line[taken]))

    def _line(self, org_id: str, least: int) -> list[Waiting]:
        """The tenant's next jobs, best first; at least so many if there are."""
        line = self._lines.setdefault(org_id, [])
        before = self._asked.get(org_id, 0)
        if len(line) < least and before < least:
            asked = self._limit
            if self._likely is not None:
                asked = min(asked, max(least, self._likely[org_id], 2 * before))
            self._asked[org_id] = asked
            known = {waiting[1] for waiting in line}
            line += [waiting for waiting in self._next_of(org_id, asked) if waiting[1] not in known]
        return line

    def _next_of(self, org_id: str, at_most: int) -> list[Waiting]:
        """The tenant's best jobs of each analysis, locked."""
        found: list[Waiting] = []
        analyses = self._analyses_of(org_id) if self._analyses is None else self._analyses
        for analysis in dict.fromkeys(analyses):
            params = {"the_org_id": org_id, "the_analysis": analysis, "at_most": at_most}
            for priority, job_id, place, *row in self._tx.run(sql.LIST_NEXT_OF_TENANT, params).fetchall():
                found.append((priority, job_id, place, row))
        return sorted(found)

    def _analyses_of(self, org_id: str) -> Iterator[str]:
        analysis = ""
        while True:
            params = {"the_org_id": org_id, "the_analysis": analysis}
            analysis = self._tx.run(sql.NEXT_ANALYSIS_OF_TENANT, params).fetchone()[0]
            if analysis is None:
                return
            yield analysis

    def trade_places(self) -> None:
        """Jobs whose turn was given to another get that one's place."""
        if all(turn[1] == job[1] for turn, job in self._picked):
            return
        spared: dict[str, list[str]] = defaultdict(list)
        freed: dict[str, list[int]] = defaultdict(list)
        running = {job[1] for _, job in self._picked}
        turned = {turn[1] for turn, _ in self._picked}
        for turn, job in self._picked:
            if turn[1] not in running:
                spared[turn[2]].append(turn[1])
            if job[1] not in turned:
                freed[turn[2]].append(job[2])
        for org_id, job_ids in spared.items():
            for job_id, place in zip(job_ids, sorted(freed[org_id]), strict=True):
                self._tx.run(sql.SET_PLACE, {"the_job_id": job_id, "the_org_id": org_id, "place": place})

    def spread_places(self) -> None:
        """Jobs that share a place whose turn was given go to the end of their tenant's line."""
        running = {job[1] for _, job in self._picked}
        for org_id, place in dict.fromkeys((turn[2], turn[0]) for turn, _ in self._picked):
            params = {"the_org_id": org_id, "the_place": place, "at_most": _SPREAD_AT_ONCE}
            for (job_id,) in self._tx.run(sql.LIST_SHARING, params).fetchall():
                if job_id not in running:
                    end = {
                        "the_job_id": job_id,
                        "the_org_id": org_id,
                        "place": self._tx.next_place(OrgId(org_id)),
                    }
                    self._tx.run(sql.SET_PLACE, end)

    def jobs(self) -> list[Job]:
        """The picked ones, as they were when they were locked; nothing of a job's value depends on its place."""
        return [self._tx.to_job(waiting[3]) for _, waiting in self._picked]
