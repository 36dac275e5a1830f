"""Jobs per second end to end: sixteen submitters at once, two slots, until every job is completed."""

from __future__ import annotations

import time
from collections.abc import Mapping

from bench import rawsqlite, rows
from bench.figures import Figure, Sense
from bench.lab import ASYNC, CONNECTIONS, NOOP, SLOTS, Lab, check, in_turn, post, say
from bench.load import Connection, LoadError, Request, from_python
from bench.rows import Template
from bench.server import Running, service
from bench.submits import count_jobs

_POLL_SECONDS = 0.025
_ALL_DONE_SECONDS = 300.0


def run(lab: Lab) -> list[Figure]:
    """One figure, and how fast a store could take in all that such jobs leave behind."""
    made_from = _rows_of_a_completed_job(lab)
    writes = rows.writes(made_from, lab.raw_writes)
    ours: list[tuple[float, float]] = []
    raw: list[tuple[float, float]] = []

    with service(lab.folder("throughput"), "--slots", str(SLOTS)) as server:
        complete(server, 50, "warm-up")

        def measure_service() -> None:
            before = server.cpu_seconds()
            took = complete(server, lab.jobs, f"round-{len(ours)}")
            ours.append((lab.jobs / took, (server.cpu_seconds() - before) / lab.jobs * 1e6))

        def measure_raw() -> None:
            done = rawsqlite.group_commit(
                lab.folder("raw") / "raw.sqlite3", made_from.schema, writes, writers=CONNECTIONS
            )
            raw.append((done.per_second, done.cpu_seconds / done.writes * 1e6))

        for number in range(lab.rounds):
            say(f"throughput: round {number + 1} of {lab.rounds}")
            in_turn(number, (measure_service, measure_raw))

    return [
        Figure(
            "jobs end to end",
            "/s",
            Sense.RATE,
            tuple(rate for rate, _ in ours),
            f"{lab.jobs} selftests without stages over {CONNECTIONS} keep-alive connections from an asyncio "
            f"client on the same cores, from the first submit until the job list has none that is not "
            f"completed (asked every {_POLL_SECONDS * 1e3:g} ms, counted at the end); serve --slots {SLOTS}; one store "
            f"for all rounds, a tenant each. Limit: the {len(made_from.rows)} rows that a completed job leaves behind "
            f"({', '.join(made_from.tables)}), inserted at once by raw group commit",
            tuple(rate for rate, _ in raw),
            "raw group commit of a job's rows",
            None,
            tuple(cost for _, cost in ours),
            tuple(cost for _, cost in raw),
        )
    ]


def complete(server: Running, jobs: int, org_id: str, body: Mapping[str, object] = NOOP) -> float:
    """Seconds from the first submit until all ``jobs`` of a new tenant are completed."""
    begin = time.perf_counter()
    request = post({**body, "options": ASYNC}, X_Org_Id=org_id)
    from_python(server.port, request, 202, connections=CONNECTIONS, count=jobs)
    unfinished = Request(
        "/analyze/jobs?limit=1&status=queued&status=running&status=partial", headers={"X-Org-Id": org_id}
    )
    with Connection(server.port) as connection:
        while connection.ask(unfinished).json()["jobs"]:
            if time.perf_counter() - begin > _ALL_DONE_SECONDS:
                raise LoadError(f"{jobs} jobs were not done after {_ALL_DONE_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
    took = time.perf_counter() - begin
    if (completed := count_jobs(server, "completed", org_id)) != jobs:
        raise LoadError(f"{jobs} jobs were accepted and {completed} are completed")
    return took


def _rows_of_a_completed_job(lab: Lab) -> Template:
    folder = lab.folder("job-rows")
    with service(folder, "--slots", "1") as server:
        before = rows.snapshot(rows.database_of(server.store_file))
        check(server, post(NOOP, Prefer="wait=30"), 200)
    return rows.template(rows.database_of(folder / "store.v1.json"), before)
