"""The service on PostgreSQL: jobs per second with 1, 2 and 4 worker processes, submits, reads, and one job's way."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from bench import rawpostgres, reads, rows, targets
from bench.figures import TIMES, Figure, Measure, Sense, Target, percentile
from bench.lab import CONNECTIONS, NOOP, Lab, check, in_turn, post, say
from bench.latency import COMMITS, WARM_UP, time_jobs
from bench.pgserver import PostgresServer, postgres, why_not
from bench.rows import Template
from bench.server import COMMAND, Running, free_port, running, service
from bench.submits import OPTIONS, SUBMIT, verify
from bench.throughput import complete

_WORKERS = (1, 2, 4)
# Enough for a second or two; twenty thousand, as on SQLite, would take most of the run.
_RAW_WRITES = 4_000


def run(lab: Lab) -> list[Figure]:
    """No figure, and a line that says why, where there is no PostgreSQL."""
    if (reason := why_not()) is not None:
        lab.skip("everything on PostgreSQL", reason)
        return []
    with postgres() as server:
        say(f"postgres: PostgreSQL {server.version}")
        return [
            *_throughput(lab, server),
            *_submits(lab, server),
            *_reads(lab, server),
            *_latency(lab, server),
        ]


# ---------------------------------------------------------------- the service and its limits
def _api(lab: Lab, url: str, *options: str) -> AbstractContextManager[Running]:
    return service(lab.folder("api"), "--store-url", url, "--no-workers", *options, probe="/health/ready")


def _worker(lab: Lab, url: str, *options: str) -> AbstractContextManager[Running]:
    folder, port = lab.folder("worker"), free_port()
    command = [str(COMMAND), "worker", "--port", str(port), "--store-url", url, *options]
    return running(
        [*command, "--store-file", str(folder / "store.v1.json")], port, folder, probe="/health/ready"
    )


def _rows_of(lab: Lab, server: PostgresServer, *, completed: bool) -> Template:
    """What one job leaves behind, from a database of its own: submitted alone, or completed."""
    with server.database() as url, ExitStack() as stack:
        api = stack.enter_context(_api(lab, url))
        if completed:
            stack.enter_context(_worker(lab, url, "--slots", "1"))
        before = rawpostgres.snapshot(url)
        request = post(NOOP, Prefer="wait=30") if completed else SUBMIT
        check(api, request, 200 if completed else 202)
        return rawpostgres.template(url, before)


@dataclass(slots=True)
class _Raw:
    """The limit: the same rows by psycopg alone, from as many connections as there are submitters."""

    server: PostgresServer
    made_from: Template
    url: str
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    database_us: list[float] = field(default_factory=list)

    def measure(self, writes: int) -> None:
        """One round."""
        ready = rows.writes(self.made_from, writes)
        before = self.server.cpu_seconds()
        took, cpu = rawpostgres.together(self.url, ready, writers=CONNECTIONS)
        self.rates.append(writes / took)
        self.cpu_us.append(cpu / writes * 1e6)
        if before is not None:
            self.database_us.append(((self.server.cpu_seconds() or 0.0) - before) / writes * 1e6)

    @property
    def said(self) -> str:
        return (
            f"the {len(self.made_from.rows)} rows ({', '.join(self.made_from.tables)}), {self.made_from.size_bytes} "
            f"bytes of text, by psycopg from {CONNECTIONS} threads with a connection each, one transaction for each, "
            f"sent in one go and waited for once; no secondary index, no foreign key"
        )


@contextmanager
def _raw(lab: Lab, server: PostgresServer, *, completed: bool) -> Generator[_Raw]:
    made_from = _rows_of(lab, server, completed=completed)
    with server.database() as url:
        # Its tables are copies of the service's own.
        with _api(lab, url):
            pass
        rawpostgres.prepare(url, made_from)
        yield _Raw(server, made_from, url)


# ---------------------------------------------------------------- end to end
@dataclass(slots=True)
class _Fleet:
    """Worker processes beside one API process."""

    start: Callable[[], AbstractContextManager[Running]]
    _open: list[tuple[ExitStack, Running]] = field(default_factory=list)

    def resize(self, size: int) -> None:
        while len(self._open) > size:
            self._open.pop()[0].close()
        while len(self._open) < size:
            stack = ExitStack()
            self._open.append((stack, stack.enter_context(self.start())))

    def cpu_seconds(self) -> float:
        return sum(process.cpu_seconds() for _, process in self._open)


@dataclass(slots=True)
class _Series:
    """One number of workers, with one number of slots each."""

    workers: int
    slots: int | None  # None: as many as the machine has cores
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    database_us: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        each = "one slot" if self.slots == 1 else "default slots"
        return f"jobs end to end, {self.workers} worker{'s' * (self.workers > 1)}, {each}"


def _throughput(lab: Lab, server: PostgresServer) -> list[Figure]:
    series = [_Series(workers, slots) for slots in (1, None) for workers in _WORKERS]
    with _raw(lab, server, completed=True) as raw, server.database() as url, _api(lab, url) as api:
        names = iter(range(10_000))

        def measure(one: _Series, fleet: _Fleet) -> None:
            fleet.resize(one.workers)
            complete(api, 20 * one.workers, f"warm-{next(names)}")
            cpu, database = api.cpu_seconds() + fleet.cpu_seconds(), server.cpu_seconds()
            took = complete(api, lab.jobs, f"round-{next(names)}")
            one.rates.append(lab.jobs / took)
            one.cpu_us.append((api.cpu_seconds() + fleet.cpu_seconds() - cpu) / lab.jobs * 1e6)
            if database is not None:
                one.database_us.append(((server.cpu_seconds() or 0.0) - database) / lab.jobs * 1e6)
            say(f"postgres: {one.name}: {one.rates[-1]:.0f} /s, {one.cpu_us[-1]:.0f} µs")

        def with_slots(slots: int | None, number: int) -> None:
            options = () if slots is None else ("--slots", str(slots))
            fleet = _Fleet(lambda: _worker(lab, url, *options))
            try:
                chosen = [one for one in series if one.slots == slots]
                in_turn(number, [lambda one=one: measure(one, fleet) for one in chosen])  # type: ignore[misc]
            finally:
                fleet.resize(0)

        for number in range(lab.rounds):
            say(f"postgres: throughput: round {number + 1} of {lab.rounds}")
            in_turn(
                number,
                (
                    lambda number=number: with_slots(1, number),  # type: ignore[misc]
                    lambda number=number: with_slots(None, number),  # type: ignore[misc]
                    lambda: raw.measure(_RAW_WRITES),
                ),
            )
    return [*(_rate(lab, one, raw) for one in series), *(_database_cost(one, raw) for one in series[:1])]


def _rate(lab: Lab, one: _Series, raw: _Raw) -> Figure:
    options = "--slots 1" if one.slots == 1 else "with its default of as many slots as cores"
    settings = (
        f"{lab.jobs} selftests without stages over {CONNECTIONS} keep-alive connections to one serve --no-workers, "
        f"until the job list has none that is not completed; {one.workers} {TIMES} async-delivery worker {options}, "
        f"all on these cores; one database for all rounds, a tenant each. Limit: {raw.said}. CPU/op is of the "
        "service's processes, without PostgreSQL's"
    )
    limit = "raw psycopg inserts of a job's rows"
    return Figure(
        one.name,
        "/s",
        Sense.RATE,
        tuple(one.rates),
        settings,
        tuple(raw.rates),
        limit,
        None,
        tuple(one.cpu_us),
        tuple(raw.cpu_us),
    )


def _database_cost(one: _Series, raw: _Raw) -> Figure:
    return Figure(
        "PostgreSQL's CPU for a job",
        "µs",
        Sense.COST,
        tuple(one.database_us),
        f"CPU time of all processes of the server in {one.name}, submit to completed, polls and hints included",
        tuple(raw.database_us),
        "raw psycopg inserts of a job's rows",
    )


# ---------------------------------------------------------------- submits, reads, latency
def _submits(lab: Lab, server: PostgresServer) -> list[Figure]:
    rates: list[float] = []
    cpu: list[float] = []
    database_us: list[float] = []
    with _raw(lab, server, completed=False) as raw:

        def measure_service() -> None:
            with server.database() as url, _api(lab, url, *OPTIONS[1:]) as api:
                before = server.cpu_seconds()
                measured = lab.put_under_load(api, SUBMIT, 202)
                if before is not None:
                    spent = (server.cpu_seconds() or 0.0) - before
                    database_us.append(spent / measured.load.requests * 1e6)
                verify(api, measured.load.requests)
            rates.append(measured.load.per_second)
            cpu.append(measured.cpu_us)

        for number in range(lab.rounds):
            say(f"postgres: submits: round {number + 1} of {lab.rounds}")
            in_turn(number, (measure_service, lambda: raw.measure(_RAW_WRITES)))
    settings = (
        f"POST /analyze, selftest without stages, async_mode requested; {lab.generator}; serve --no-workers on a new "
        f"database each round; the number of stored jobs is checked afterwards. Limit: {raw.said}"
    )
    limit = "raw psycopg inserts of the same rows"
    return [
        Figure(
            "submits on PostgreSQL, durable before the 202",
            "/s",
            Sense.RATE,
            tuple(rates),
            settings,
            tuple(raw.rates),
            limit,
            Target("≥ 50 % of the limit", bound=0.5),
            tuple(cpu),
            tuple(raw.cpu_us),
        ),
        Figure(
            "PostgreSQL's CPU for a submit",
            "µs",
            Sense.COST,
            tuple(database_us),
            "CPU time of all processes of the server in the same submits",
            tuple(raw.database_us),
            limit,
        ),
    ]


def _reads(lab: Lab, server: PostgresServer) -> list[Figure]:
    with server.database() as url, _api(lab, url) as api, _worker(lab, url, "--slots", "1"):
        found = reads.measure(lab, api, "serve --no-workers and one worker on PostgreSQL")
    # The other way to store does not change what can be reached at best, but a round trip is not free.
    return [
        replace(figure, name=name, target=targets.of(name))
        for figure in found
        for name in [f"{figure.name}, PostgreSQL"]
    ]


def _latency(lab: Lab, server: PostgresServer) -> list[Figure]:
    ours: list[list[float]] = []
    limits: list[list[float]] = []
    cpu: list[float] = []
    with (
        _raw(lab, server, completed=False) as raw,
        server.database() as url,
        _api(lab, url) as api,
        _worker(lab, url, "--slots", "1") as worker,
    ):
        time_jobs(api, WARM_UP)

        def measure_service() -> None:
            before = api.cpu_seconds() + worker.cpu_seconds()
            ours.append(time_jobs(api, lab.samples))
            cpu.append((api.cpu_seconds() + worker.cpu_seconds() - before) / lab.samples * 1e6)

        def measure_raw() -> None:
            single = rawpostgres.one_by_one(raw.url, rows.writes(raw.made_from, lab.samples * COMMITS))
            limits.append([sum(single[at : at + COMMITS]) for at in range(0, len(single), COMMITS)])

        for number in range(lab.rounds):
            say(f"postgres: latency: round {number + 1} of {lab.rounds}")
            in_turn(number, (measure_service, measure_raw))
    settings = (
        "POST /analyze with Prefer: wait=30, selftest without stages, answered with its result; one blocking "
        f"keep-alive connection to serve --no-workers, {lab.samples} jobs per round after {WARM_UP} to warm up; one "
        f"async-delivery worker --slots 1, woken and telling by NOTIFY. Limit: {COMMITS} raw commits of a submit's "
        "rows one after another, as submit, claim and complete are"
    )
    return [_wait(share, ours, limits, settings, cpu) for share in (0.5, 0.99)]


def _wait(
    share: float,
    ours: Sequence[Sequence[float]],
    limits: Sequence[Sequence[float]],
    settings: str,
    cpu: Sequence[float],
) -> Figure:
    half = share == 0.5
    return Figure(
        f"submit → completed on PostgreSQL, p{share * 100:g}",
        "ms",
        Sense.COST,
        tuple(percentile(took, share) * 1e3 for took in ours),
        settings if half else "The same jobs",
        tuple(percentile(took, share) * 1e3 for took in limits),
        f"{COMMITS} commits in a row",
        None if half else Target("≤ 50 ms", Measure.VALUE, 50.0),
        tuple(cpu) if half else (),
    )
