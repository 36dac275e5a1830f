"""Submits per second over HTTP, each durable before its 202, beside the same rows written by raw group commit."""

from __future__ import annotations

from bench import rawsqlite, rows, targets
from bench.figures import Figure, Sense
from bench.lab import ASYNC, CONNECTIONS, NOOP, Lab, check, in_turn, post, say
from bench.load import Connection, LoadError, Request
from bench.rows import Template
from bench.server import Running, bare, service

SUBMIT = post({**NOOP, "options": ASYNC})
# Fresh stores and more room than any run fills: the quota is not what is measured.
OPTIONS = ("--no-workers", "--max-queued-per-tenant", "10000000")


def sample_rows(lab: Lab) -> Template:
    """What one submit writes, from a store of its own."""
    folder = lab.folder("submit-rows")
    with service(folder, *OPTIONS) as server:
        before = rows.snapshot(rows.database_of(server.store_file))
        check(server, SUBMIT, 202)
    return rows.template(rows.database_of(folder / "store.v1.json"), before)


def run(lab: Lab) -> list[Figure]:
    """Figures against raw SQLite, without and with indexes, and a bare ASGI application that writes the same rows."""
    made_from = sample_rows(lab)
    writes = rows.writes(made_from, lab.raw_writes)
    ours: list[tuple[float, float]] = []
    raw: list[tuple[float, float]] = []
    indexed: list[tuple[float, float]] = []
    thin: list[tuple[float, float]] = []

    def measure_service() -> None:
        with service(lab.folder("submits"), *OPTIONS) as server:
            measured = lab.put_under_load(server, SUBMIT, 202)
            verify(server, measured.load.requests)
        ours.append((measured.load.per_second, measured.cpu_us))

    def commit_raw(schema: tuple[str, ...]) -> tuple[float, float]:
        done = rawsqlite.group_commit(lab.folder("raw") / "raw.sqlite3", schema, writes, writers=CONNECTIONS)
        return done.per_second, done.cpu_seconds / done.writes * 1e6

    def measure_raw() -> None:
        raw.append(commit_raw(made_from.schema))

    def measure_indexed() -> None:
        indexed.append(commit_raw(made_from.schema + made_from.indexes))

    def measure_thin() -> None:
        folder = lab.folder("thin")
        made_from.save(folder / "template")
        with bare(folder, "--submit", str(folder / "template"), str(folder / "raw.sqlite3")) as server:
            measured = lab.put_under_load(server, SUBMIT, 202)
        thin.append((measured.load.per_second, measured.cpu_us))

    for number in range(lab.rounds):
        say(f"submits: round {number + 1} of {lab.rounds}")
        in_turn(number, (measure_service, measure_raw, measure_indexed, measure_thin))

    settings = (
        f"POST /analyze, selftest without stages, async_mode requested; {lab.generator}; serve --no-workers on a new "
        "store each round, so that the queue's length stays the same for all rounds and nothing is claimed meanwhile; "
        "the number of stored jobs is checked afterwards"
    )
    same = f"{len(made_from.rows)} rows ({', '.join(made_from.tables)}), {made_from.size_bytes} bytes of text"
    rates = tuple(rate for rate, _ in ours)
    cpu = tuple(cost for _, cost in ours)
    return [
        Figure(
            "submits, durable before the 202",
            "/s",
            Sense.RATE,
            rates,
            f"{settings}. Limit: {same}, WAL, FULL, no secondary index; {CONNECTIONS} coroutines that each wait for "
            f"their commit, one writer thread, {lab.raw_writes} writes, in the benchmark's own process",
            tuple(rate for rate, _ in raw),
            "raw group commit of the same rows",
            targets.of("submits, durable before the 202"),
            cpu,
            tuple(cost for _, cost in raw),
        ),
        Figure(
            "submits, against the commit with its indexes",
            "/s",
            Sense.RATE,
            rates,
            f"The same submits. Limit: the same raw group commit into tables with the {len(made_from.indexes)} "
            "secondary indexes that the store has on them: what the rows cost where they can be found again",
            tuple(rate for rate, _ in indexed),
            "raw group commit, indexed",
            None,
            cpu,
            tuple(cost for _, cost in indexed),
        ),
        Figure(
            "submits, against HTTP and commit alone",
            "/s",
            Sense.RATE,
            rates,
            "The same submits. Limit: a bare ASGI application on uvicorn that reads the body, writes these rows by "
            "the raw group commit and answers 202: no validation, no ids but the keys, no other promise",
            tuple(rate for rate, _ in thin),
            "bare ASGI + raw group commit",
            None,
            cpu,
            tuple(cost for _, cost in thin),
        ),
    ]


def verify(server: Running, answered: int) -> None:
    """As many jobs are stored as were answered, give or take those under way at the end and the one asked first."""
    stored = count_jobs(server, "queued")
    if not answered <= stored <= answered + CONNECTIONS + 1:
        raise LoadError(f"{answered} submits were answered and {stored} jobs are stored")


def count_jobs(server: Running, status: str, org_id: str = "default-org") -> int:
    """Jobs of a tenant in one state, by paging through the server's own list."""
    total, cursor = 0, ""
    with Connection(server.port) as connection:
        while True:
            path = f"/analyze/jobs?limit=200&status={status}{cursor}"
            page = connection.ask(Request(path, headers={"X-Org-Id": org_id})).json()
            total += len(page["jobs"])
            if not page["next_cursor"]:
                return total
            cursor = f"&cursor={page['next_cursor']}"
