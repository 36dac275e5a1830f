"""Broken stores: one whole template, and ways to break a copy of it, each from a seed.

After a mutation the store is started as ``serve`` starts it. That is refused in a sentence, with every file as it
was; or what is served is right. A row of the database other than a result has no checksum, so a flipped bit in one
can be served; then the store's own check or nothing at all can tell, which is counted apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.job import Job, ResultId
from async_delivery.domain.result import intact
from async_delivery.storage.contract import JobFilter, Reader, Store
from async_delivery.storage.opening import Mode, ensure_store, open_store
from tests.contract.support import ALPHA
from tests.domain.support import NOON
from tests.reliability.killpoints_paths import STORE, house_in

DATABASE = "store.v1.sqlite3"
JOBS = 40
HANG_SECONDS = 30

Mutation = Callable[[Path, random.Random], None]


@dataclass(frozen=True)
class Template:
    """A store at rest, the same with a log that was left by a kill, another store, and what is in it."""

    folder: Path
    jobs: dict[str, Job]
    bodies: dict[str, bytes]


def make_template(folder: Path) -> Template:
    ensure_store(folder / "rest" / STORE, store_id="store-1", now=NOON)
    house = house_in(folder / "rest")
    for number in range(JOBS):
        house.completed(payload={"number": number, "filler": "y" * (number * 400)}, partials=1)
        house.submit()
    jobs, bodies = _content(house.store)
    house.store.close()
    shutil.copytree(folder / "rest", folder / "log")
    _leave_a_log(folder / "log")
    ensure_store(folder / "other" / STORE, store_id="store-2", now=NOON)
    house_in(folder / "other").store.close()
    return Template(folder, jobs, bodies)


def _leave_a_log(folder: Path) -> None:
    pid = os.fork()
    if pid == 0:
        house = house_in(folder)
        for number in range(10):
            house.completed(payload={"later": number})
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def _content(store: Store) -> tuple[dict[str, Job], dict[str, bytes]]:
    jobs = store.read(lambda reader: reader.list_jobs(ALPHA, JobFilter(), 10_000, None))
    bodies = {}
    for job in jobs:
        if job.result_id is not None:
            result_id = job.result_id
            body = store.read(lambda reader, result_id=result_id: reader.find_body(ALPHA, result_id))  # type: ignore[misc]
            assert body is not None
            bodies[str(result_id)] = body
    return {job.job_id: job for job in jobs}, bodies


def _permalink(reader: Reader, result_id: ResultId) -> bytes | None:
    """What is served for a result: its bytes if they are the ones that were stored. Raises ResultCorruptError."""
    found, body = reader.find_result(ALPHA, result_id), reader.find_body(ALPHA, result_id)
    return None if found is None or body is None else intact(found[0], body)


# ---------------------------------------------------------------- ways to break it
def _change(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def _flip(data: bytearray, chance: random.Random, low: int = 0, high: int | None = None) -> None:
    at = chance.randrange(low, min(len(data), high or len(data)))
    data[at] ^= 1 << chance.randrange(8)


def truncate(folder: Path, chance: random.Random) -> None:
    size = (folder / DATABASE).stat().st_size
    os.truncate(folder / DATABASE, chance.choice((0, 1, 100, chance.randrange(size), size - 1, size - 4096)))


def zero_page(folder: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        page = chance.randrange(len(data) // 4096)
        data[page * 4096 : (page + 1) * 4096] = bytes(4096)

    _change(folder / DATABASE, change)


def zero_tail(folder: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        start = chance.randrange(len(data))
        data[start:] = bytes(len(data) - start)

    _change(folder / DATABASE, change)


def flip_header(folder: Path, chance: random.Random) -> None:
    _change(folder / DATABASE, lambda data: _flip(data, chance, 0, 100))


def flip_page(folder: Path, chance: random.Random) -> None:
    _change(folder / DATABASE, lambda data: _flip(data, chance, 100))


def flip_many(folder: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        for _ in range(chance.randrange(2, 200)):
            _flip(data, chance, 100)

    _change(folder / DATABASE, change)


def swap_pages(folder: Path, chance: random.Random) -> None:
    def change(data: bytearray) -> None:
        one, other = (chance.randrange(1, len(data) // 4096) * 4096 for _ in range(2))
        data[one : one + 4096], data[other : other + 4096] = (
            data[other : other + 4096],
            data[one : one + 4096],
        )

    _change(folder / DATABASE, change)


def noise(folder: Path, chance: random.Random) -> None:
    (folder / DATABASE).write_bytes(chance.randbytes(chance.choice((1, 512, 4096, 100_000))))


def text(folder: Path, chance: random.Random) -> None:
    (folder / DATABASE).write_text("not a database\n" * chance.randrange(1, 1000))


def other_store(folder: Path, chance: random.Random) -> None:
    shutil.copy(folder.parent / "template" / "other" / DATABASE, folder / DATABASE)


def foreign_database(folder: Path, chance: random.Random) -> None:
    (folder / DATABASE).unlink()
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.execute("CREATE TABLE jobs (job_id TEXT)")
        connection.commit()


def newer_schema(folder: Path, chance: random.Random) -> None:
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        if chance.random() < 0.5:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        else:
            connection.execute("PRAGMA user_version = 77")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def no_identity(folder: Path, chance: random.Random) -> None:
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.execute(
            chance.choice(("DELETE FROM meta", "DROP TABLE meta", "DELETE FROM alembic_version"))
        )
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def no_table(folder: Path, chance: random.Random) -> None:
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(f"DROP TABLE {chance.choice(('events', 'notifications', 'result_bodies'))}")
        connection.commit()


def missing(folder: Path, chance: random.Random) -> None:
    (folder / DATABASE).unlink()


def _in_place_of(path: Path, chance: random.Random) -> None:
    path.unlink(missing_ok=True)
    match chance.randrange(4):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path.name)
        case 2:
            path.symlink_to("nowhere")
        case _:
            os.mkfifo(path)


def odd_database(folder: Path, chance: random.Random) -> None:
    _in_place_of(folder / DATABASE, chance)


def odd_store_file(folder: Path, chance: random.Random) -> None:
    _in_place_of(folder / STORE, chance)


def odd_lock(folder: Path, chance: random.Random) -> None:
    lock = folder / f"{DATABASE}.lock"
    if chance.random() < 0.5:
        _in_place_of(lock, chance)
    else:
        lock.write_bytes(chance.choice((b"", b'{"pid": 1, "host": "gone"}', chance.randbytes(5000), b"{")))


def odd_log(folder: Path, chance: random.Random) -> None:
    path = folder / (DATABASE + chance.choice(("-wal", "-journal", "-shm")))
    if chance.random() < 0.3:
        path.mkdir()
    else:
        path.write_bytes(chance.randbytes(chance.choice((1, 32, 4096, 40_000))))


def store_file_bytes(folder: Path, chance: random.Random) -> None:
    _change(folder / STORE, lambda data: _flip(data, chance))


def store_file_cut(folder: Path, chance: random.Random) -> None:
    os.truncate(folder / STORE, chance.randrange((folder / STORE).stat().st_size))


def store_file_fields(folder: Path, chance: random.Random) -> None:
    said = json.loads((folder / STORE).read_text())
    name = chance.choice(sorted(said))
    odd: list[object] = [
        None,
        0,
        99,
        -1,
        "",
        "x",
        [],
        {},
        True,
        "sqlite:",
        "sqlite:../other",
        "sqlite::memory:",
    ]
    said[name] = chance.choice(odd)
    if chance.random() < 0.3:
        del said[name]
    (folder / STORE).write_text(json.dumps(said))


def half_document(folder: Path, chance: random.Random) -> None:
    whole = json.dumps(
        {
            "schema_version": chance.randrange(1, 6),
            "jobs": {f"job-{n}": {"status": "completed", "filler": "x" * 400} for n in range(400)},
            "results": {},
            "events": {},
            "notifications": {},
        }
    )
    (folder / STORE).write_text(whole[: chance.randrange(len(whole) + 1)])


def flip_log(folder: Path, chance: random.Random) -> None:
    _change(folder / f"{DATABASE}-wal", lambda data: _flip(data, chance))


def cut_log(folder: Path, chance: random.Random) -> None:
    path = folder / f"{DATABASE}-wal"
    os.truncate(path, chance.randrange(path.stat().st_size))


ON_REST: tuple[Mutation, ...] = (
    truncate,
    zero_page,
    zero_tail,
    flip_header,
    flip_page,
    flip_many,
    swap_pages,
    noise,
    text,
    other_store,
    foreign_database,
    newer_schema,
    no_identity,
    no_table,
    missing,
    odd_database,
    odd_store_file,
    odd_lock,
    odd_log,
    store_file_bytes,
    store_file_cut,
    store_file_fields,
    half_document,
)
ON_LOG: tuple[Mutation, ...] = (flip_log, cut_log)
ALL = (*ON_REST, *ON_LOG)


# ---------------------------------------------------------------- what comes of it
@dataclass
class Outcome:
    """How many starts were refused and how many served; what was wrong; silently changed rows (see above)."""

    refused: int = 0
    served: int = 0
    silent: int = 0
    wrong: list[str] = field(default_factory=list)


def prints(folder: Path) -> dict[str, str]:
    """What the files are, without opening anything that would block."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = oct(path.lstat().st_mode)
    return found


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_one(template: Template, mutate: Mutation, seed: int, folder: Path, outcome: Outcome) -> None:
    """Break a copy, start it, and judge."""
    shutil.copytree(template.folder / ("log" if mutate in ON_LOG else "rest"), folder)
    mutate(folder, random.Random(seed))
    what = f"{mutate.__name__} with seed {seed}"
    before = prints(folder)
    try:
        with no_longer_than(HANG_SECONDS):
            ensure_store(folder / STORE, store_id="store-9", now=NOON)
            store = open_store(folder / STORE, Mode.SERVE)
    except AsyncDeliveryError as exc:
        outcome.refused += 1
        after = prints(folder)
        changed = [name for name, found in before.items() if after.get(name) != found]
        # What SQLite keeps beside a database is its own; the lock file says who tried.
        changed = [name for name in changed if not name.endswith(("-shm", ".lock"))]
        if changed:
            outcome.wrong.append(f"{what}: refused, and changed {changed}")
        if str(folder) not in exc.message:
            outcome.wrong.append(f"{what}: the refusal names no file: {exc.message}")
        return
    except Exception as exc:  # noqa: BLE001  whatever else it is, it is a fault to be shown
        outcome.wrong.append(f"{what}: {exc!r}")
        return
    outcome.served += 1
    try:
        with no_longer_than(HANG_SECONDS):
            _judge_served(template, store, what, outcome)
    except Exception as exc:  # noqa: BLE001  the same
        outcome.wrong.append(f"{what}: served, then {exc!r}")
    finally:
        store.close()


# A row that is no longer one of ours fails in many ways; its reader gets an answer 500, and nothing wrong.
_ANSWERED_500 = (AsyncDeliveryError, KeyError, ValueError, TypeError)


def _judge_served(template: Template, store: Store, what: str, outcome: Outcome) -> None:
    changed, unknown = [], 0
    for job_id, was in template.jobs.items():
        try:
            job = store.read(lambda reader, job_id=was.job_id: reader.find_job(ALPHA, job_id))  # type: ignore[misc]
        except _ANSWERED_500:
            continue
        unknown += job is None
        if job != was:
            changed.append(job_id)
    if unknown == len(template.jobs):
        outcome.wrong.append(f"{what}: served without a single job that was in it")
    for result_id, data in template.bodies.items():
        try:
            found = store.read(
                lambda reader, result_id=result_id: _permalink(reader, ResultId(result_id))  # type: ignore[misc]
            )
        except _ANSWERED_500:
            continue
        if found not in (None, data):
            outcome.wrong.append(f"{what}: served another body for {result_id}")
    if not changed:
        return
    try:
        noticed = store.read(lambda reader: reader.violations(1))
    except _ANSWERED_500:
        return
    if not noticed:
        outcome.silent += 1
