"""The commit paths that are killed at every call to the kernel: what is prepared, done, and true afterwards.

Each path runs in a process of its own (``killpoints_zygote``). It writes what was acknowledged to the file
``acks`` beside the store, one line each, as a client that got the answer would have it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from async_delivery.domain.cleanup import Runner
from async_delivery.domain.errors import LeaseLostError, StoreFileError, UnavailableError
from async_delivery.domain.job import Job, JobId, JobStatus
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.retention import run_cleanup
from async_delivery.ops.artefacts import read_artefacts, write_json
from async_delivery.storage import migrate, opening, schema
from async_delivery.storage.contract import JobFilter
from async_delivery.storage.opening import Mode, ensure_store, open_store
from tests.contract.support import ALPHA, House, saving
from tests.domain.support import NOON

STORE = "store.v1.json"
# In the template a few jobs of every kind lie about, so that a path never works on an empty store.
BYSTANDERS = 3
# SQLite's automatic checkpoint begins at this many pages of the log.
CHECKPOINT_PAGES = 1000


@dataclass(frozen=True)
class CommitPath:
    """One way to the disk.

    prepare   makes the template that every run gets a copy of
    ready     what happens before kills begin, in the process that will be killed
    act       what is killed; ``ack`` notes what its caller was told
    judge     after a restart: what is wrong, given what was acknowledged; then the path must work again
    threads   how many make the same kind of call; of two, each number is tried with the one that comes to it first
    """

    name: str
    prepare: Callable[[Path], None]
    ready: Callable[[Path], Any]
    act: Callable[[Any, Callable[[str], None]], None]
    judge: Callable[[Path, Sequence[str]], list[str]]
    threads: int = 1


def house_in(folder: Path) -> House:
    """The store of ``folder`` with ids that no earlier process gave out."""
    house = House(open_store(folder / STORE, Mode.SERVE))
    house.new_id = lambda: str(uuid.uuid4())  # type: ignore[method-assign]
    return house


def warm(folder: Path) -> House:
    """With this thread's reader open, which writes to SQLite's shared memory: now only the writer's thread writes."""
    house = house_in(folder)
    house.store.read(lambda reader: reader.find_job(ALPHA, JobId("none")))
    return house


def furnish(folder: Path) -> None:
    ensure_store(folder / STORE, store_id="store-1", now=NOON)
    house = house_in(folder)
    for number in range(BYSTANDERS):
        house.completed(payload={"number": number}, partials=1)
        house.cancel(house.submit())
    house.store.close()


def with_queued(folder: Path) -> None:
    furnish(folder)
    house = house_in(folder)
    house.submit()
    house.store.close()


def with_running(folder: Path) -> None:
    furnish(folder)
    house = house_in(folder)
    house.partial(house.running(), {"first": True})
    house.store.close()


def with_a_full_log(folder: Path) -> None:
    """A log that the next commit works into the database; its process ended without closing it."""
    furnish(folder)
    pid = os.fork()
    if pid == 0:
        house = house_in(folder)
        log = folder / "store.v1.sqlite3-wal"
        page = 4096 + 24
        while not log.exists() or log.stat().st_size < (CHECKPOINT_PAGES - 3) * page:
            house.submit()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


# ---------------------------------------------------------------- what is true afterwards
def one_job(house: House, status: JobStatus, *, skip: int = 0) -> Job:
    found = house.store.read(lambda reader: reader.list_jobs(ALPHA, JobFilter(statuses=(status,)), 100, None))
    return found[skip]


def read_job(house: House, job_id: str) -> Job | None:
    return house.store.read(lambda reader: reader.find_job(OrgId("alpha"), JobId(job_id)))


def kept(house: House, acks: Sequence[str]) -> list[str]:
    """What was acknowledged and is not there."""
    wrong = []
    for line in acks:
        job_id, wanted, *rest = line.split()
        job = read_job(house, job_id)
        if job is None:
            wrong.append(f"{line}: acknowledged and lost")
        elif wanted == "partial":
            if job.partial_count < int(rest[0]):
                wrong.append(f"{line}: partial result lost")
        elif wanted == "running":
            # It may have gone on, or been given back by the restart; that it was claimed stays.
            wrong += [f"{line}: was never claimed"] * (job.attempt < 1)
        elif str(job.status) != wanted:
            wrong.append(f"{line}: is {job.status}")
    return wrong


def whole(house: House) -> list[str]:
    """Half states: what the store's own check finds, and ends without their event, notification or result."""
    wrong = list(house.violations())
    jobs = house.store.read(lambda reader: reader.list_jobs(ALPHA, JobFilter(), 10_000, None))
    for job in jobs:
        if not job.status.terminal:
            continue
        wrong += [f"{job.job_id}: no notification"] * (len(house.notifications(job)) != 1)
        last = [event.event_type for event in house.events(job)][-1:]
        wrong += [f"{job.job_id}: ends with {last}"] * (last not in ([], [f"job.{job.status}"]))
    return wrong


def judged(
    again: Callable[[House, Callable[[str], None]], None],
) -> Callable[[Path, Sequence[str]], list[str]]:
    """Open, look, do it once more, look again."""

    def judge(folder: Path, acks: Sequence[str]) -> list[str]:
        house = house_in(folder)
        try:
            wrong = kept(house, acks) + whole(house)
            later: list[str] = []
            again(house, later.append)
            wrong += kept(house, [*acks, *later]) + whole(house)
        finally:
            house.store.close()
        return wrong + left_over(folder)

    return judge


def left_over(folder: Path) -> list[str]:
    """Files that nobody needs: after an orderly end only the store's own are there."""
    own = {STORE, "store.v1.sqlite3", "store.v1.sqlite3.lock", "acks", "go"}
    return [f"litter: {path.name}" for path in folder.iterdir() if path.is_file() and path.name not in own]


# ---------------------------------------------------------------- the paths
def submit(house: House, ack: Callable[[str], None]) -> None:
    ack(f"{house.submit().job_id} queued")


def stubborn(house: House, ack: Callable[[str], None]) -> None:
    """Submit and complete as a client does that asks again after each 503."""
    for _ in range(3):
        job = _insist(house.running)
        ack(f"{job.job_id} running")
        done = _insist(lambda job=job: house.complete(job, {"all": "z" * 6000}))  # type: ignore[misc]
        ack(f"{done.job_id} completed")


def _insist(act: Callable[[], Job]) -> Job:
    for _ in range(5):
        try:
            return act()
        except UnavailableError:
            continue
        except LeaseLostError as exc:
            # A commit that failed uncertainly had been kept after all: this ends as the first try did.
            raise SystemExit(0) from exc
    raise AssertionError("refused five times in a row, with one fault")


def submit_group(house: House, ack: Callable[[str], None]) -> None:
    made = [house.submission() for _ in range(4)]
    for change, done in [(one, house.store.write_soon(saving(one))) for one in made]:
        done.result(60)
        ack(f"{change.job.job_id} queued")


def claim(house: House, ack: Callable[[str], None]) -> None:
    for job in house.claim():
        ack(f"{job.job_id} running")


def started(house: House) -> Job:
    """The running job of the template, or a new one where it has ended already."""
    for status in (JobStatus.PARTIAL, JobStatus.RUNNING):
        try:
            return one_job(house, status)
        except IndexError:
            continue
    return house.partial(house.running())


def partial(house: House, ack: Callable[[str], None]) -> None:
    job = house.partial(started(house), {"more": "x" * 6000})
    ack(f"{job.job_id} partial {job.partial_count}")


def complete(house: House, ack: Callable[[str], None]) -> None:
    ack(f"{house.complete(started(house), {'all': 'y' * 6000}).job_id} completed")


def fail(house: House, ack: Callable[[str], None]) -> None:
    ack(f"{house.fail(started(house)).job_id} failed")


def cancel(house: House, ack: Callable[[str], None]) -> None:
    try:
        job = one_job(house, JobStatus.QUEUED)
    except IndexError:
        job = house.submit()
    ack(f"{house.cancel(job).job_id} canceled")


def cleanup(house: House, ack: Callable[[str], None]) -> None:
    report = run_cleanup(
        house.store, RetentionPolicy(0, 0), runner=Runner.PYTHON, now=NOON + timedelta(days=1)
    )
    assert not report.errors, report.errors


def close(house: House, ack: Callable[[str], None]) -> None:
    submit(house, ack)
    house.store.close()


def close_again(house: House, ack: Callable[[str], None]) -> None:
    """Closing is what ``judged`` ends with anyway."""


def _on_house(
    name: str,
    prepare: Callable[[Path], None],
    act: Callable[[House, Callable[[str], None]], None],
    again: Callable[[House, Callable[[str], None]], None] | None = None,
) -> CommitPath:
    return CommitPath(name, prepare, warm, act, judged(again or act))


# ---------------------------------------------------------------- paths without an open store
def nothing_yet(folder: Path) -> None:
    """An empty folder."""


def where(folder: Path) -> Path:
    return folder


def init(folder: Path, ack: Callable[[str], None]) -> None:
    ack(f"store {ensure_store(folder / STORE, store_id='store-1', now=NOON).store_id}")


def judge_init(folder: Path, acks: Sequence[str]) -> list[str]:
    there = (folder / STORE).exists()
    wrong = ["acknowledged, and there is no store file"] if acks and not there else []
    ensure_store(folder / STORE, store_id="store-2", now=NOON)
    return wrong + judged(submit)(folder, [])


def serve(folder: Path, ack: Callable[[str], None]) -> None:
    open_store(folder / STORE, Mode.SERVE)


def artefact(folder: Path, ack: Callable[[str], None]) -> None:
    target = write_json(folder / "artifacts", "retention-x", {"n": list(range(2000)), "finished_at": "x"})
    ack(f"artefact {target.name}")


def judge_artefact(folder: Path, acks: Sequence[str]) -> list[str]:
    out = folder / "artifacts"
    found = {each.path.name: each for each in read_artefacts(out, "retention-*.json")} if out.exists() else {}
    wrong = [f"{name}: {each.fault}" for name, each in found.items() if each.fault]
    wrong += [f"{line}: lost" for line in acks if line.split()[1] not in found]
    write_json(out, "retention-x", {"again": True})
    if len(read_artefacts(out, "retention-*.json")) != len(found) + 1:
        wrong.append("a second report did not find a name of its own")
    return wrong


LATER = '''
"""A later revision: a new table, and one that is made anew with its rows."""
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "HEAD"


def upgrade() -> None:
    op.create_table("extra", sa.Column("x", sa.Text()))
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("extra", sa.Text()))
    op.execute("UPDATE jobs SET extra = 'filled'")
'''


def with_later_migrations(folder: Path) -> None:
    furnish(folder)
    source = Path(schema.__file__).parent / "migrations"
    target = folder / "migrations"
    (target / "versions").mkdir(parents=True)
    for path in (source / "env.py", source / "script.py.mako", *(source / "versions").glob("*.py")):
        (target / path.relative_to(source)).write_text(path.read_text())
    (target / "versions" / "later.py").write_text(LATER.replace("HEAD", schema.HEAD))


@contextmanager
def later_version(folder: Path) -> Iterator[None]:
    """The program as its next version would be: it knows one migration more."""
    known = (*schema.REVISIONS, "later")
    with (
        patch.multiple(opening, HEAD="later", REVISIONS=known),
        patch.object(
            migrate.migrate_sqlite, "__kwdefaults__", {"script_location": str(folder / "migrations")}
        ),
    ):
        yield


def migration(folder: Path, ack: Callable[[str], None]) -> None:
    with later_version(folder):
        open_store(folder / STORE, Mode.SERVE)
    ack("migrated later")


def judge_migration(folder: Path, acks: Sequence[str]) -> list[str]:
    try:
        # The older program goes on with what is still its own, or says that it cannot.
        house = house_in(folder)
        wrong = whole(house) + ["acknowledged, and still the older schema"] * bool(acks)
        house.store.close()
    except StoreFileError as exc:
        wrong = [] if "newer version" in exc.message else [exc.message]
    with later_version(folder):
        return wrong + judged(submit)(folder, [])


PATHS = {
    path.name: path
    for path in (
        _on_house("submit", furnish, submit),
        _on_house("stubborn", furnish, stubborn),
        _on_house("submit-group", furnish, submit_group),
        _on_house("claim", with_queued, claim),
        _on_house("partial", with_running, partial),
        _on_house("complete", with_running, complete),
        _on_house("fail", with_running, fail),
        _on_house("cancel", with_queued, cancel),
        _on_house("cleanup", with_running, cleanup),
        _on_house("close", furnish, close, close_again),
        _on_house("checkpoint", with_a_full_log, submit),
        CommitPath("serve", furnish, where, serve, judged(submit)),
        CommitPath("init", nothing_yet, where, init, judge_init),
        CommitPath("migration", with_later_migrations, where, migration, judge_migration),
        CommitPath("artefact", nothing_yet, where, artefact, judge_artefact),
    )
}
