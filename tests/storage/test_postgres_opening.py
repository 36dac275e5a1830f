"""From a store URL to an open store on PostgreSQL: who may, what is refused, what stays secret, what migrates."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import psycopg.conninfo
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from async_delivery.domain.errors import StoreFileError, UnavailableError
from async_delivery.storage import migrate, schema
from async_delivery.storage.opening import Mode, StoreFile, create_store, ensure_store, open_store
from async_delivery.storage.storefile import write_store_file
from async_delivery.storage.tables import metadata
from tests.contract.support import ALPHA, House
from tests.contract.test_races import together
from tests.domain.support import NOON, REQUEST
from tests.postgres import OwnServer, own_server, shared_server
from tests.storage.processes import ended, started
from tests.storage.proxies import Pooler
from tests.storage.test_postgres import by_hand, dump

SECRET = "open sesame"


@pytest.fixture
def url() -> str:
    """Of a database without anything."""
    return shared_server().empty_database()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StoreFile]:
    with shared_server().lent_store_file(tmp_path) as lent:
        yield lent


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def refused(path: Path, saying: str, mode: Mode = Mode.SERVE) -> None:
    with pytest.raises(StoreFileError, match=saying):
        open_store(path, mode)


# ---------------------------------------------------------------- which store
def test_a_store_file_of_another_store_is_refused(file: StoreFile, tmp_path: Path) -> None:
    wrong = replace(file, path=tmp_path / "wrong.json", store_id="store-2")
    write_store_file(wrong)

    for mode in Mode:
        refused(wrong.path, "belongs to store store-2, but .* is store store-1", mode)


def test_a_database_without_the_store_is_refused_and_no_new_one_made(url: str, tmp_path: Path) -> None:
    lost = StoreFile(tmp_path / "lost.json", "store-1", url, NOON)
    write_store_file(lost)

    refused(lost.path, "holds no store .* restore it from a backup")
    with psycopg.connect(url) as connection:
        assert connection.execute(b"SELECT to_regnamespace('async_delivery')").fetchone() == (None,)


def test_a_newer_schema_and_a_foreign_one_are_refused(file: StoreFile, url: str, tmp_path: Path) -> None:
    by_hand(file, "UPDATE async_delivery.alembic_version SET version_num = '9999'")
    try:
        for mode in Mode:
            refused(file.path, "newer version of the program .*9999.*upgrade", mode)
    finally:
        by_hand(file, "UPDATE async_delivery.alembic_version SET version_num = %s", schema.HEAD)

    run(url, "CREATE SCHEMA async_delivery", "CREATE TABLE async_delivery.accounts (id int)")
    with pytest.raises(StoreFileError, match=r"holds other tables \(accounts\)"):
        create_store(tmp_path / "new.json", url, store_id="store-9", now=NOON)
    assert not (tmp_path / "new.json").exists()


def test_an_existing_store_is_taken_over_and_tables_of_others_are_let_alone(
    file: StoreFile, tmp_path: Path
) -> None:
    by_hand(file, "CREATE TABLE public.jobs (mine text)")
    try:
        again = create_store(tmp_path / "again.json", file.database, store_id="not used", now=NOON)
        assert again.store_id == file.store_id
        with closing(open_store(again.path, Mode.SERVE)) as store:
            House(store).submit()
        assert by_hand(file, "SELECT * FROM public.jobs") == []
    finally:
        by_hand(file, "DROP TABLE public.jobs")


CREATE = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from async_delivery.storage.opening import ensure_store

file = ensure_store(Path(sys.argv[1]), sys.argv[2], store_id=sys.argv[3], now=datetime(2026, 3, 1, tzinfo=timezone.utc))
print(file.store_id)
"""


def test_processes_that_create_the_same_store_at_once_end_up_with_one(url: str, tmp_path: Path) -> None:
    same, own = tmp_path / "same" / "store.json", tmp_path / "own" / "store.json"
    started_now = [
        started(CREATE, path, url, f"store-{number}") for number, path in enumerate((same, same, own))
    ]

    made = {ended(process) for process in started_now}

    assert len(made) == 1
    for path in (same, own):
        open_store(path, Mode.SERVE).close()


# ---------------------------------------------------------------- whose rights
@contextmanager
def role(name: str, *grants: str) -> Iterator[str]:
    server = shared_server()
    server.run(f"CREATE ROLE {name} LOGIN")
    try:
        for grant in grants:
            server.run(grant)
        yield name
    finally:
        server.run(f"DROP OWNED BY {name}")
        server.run(f"DROP ROLE {name}")


def test_a_role_that_may_not_make_the_schema_is_told_what_its_owner_does(url: str, tmp_path: Path) -> None:
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with role(f"guest_{os.getpid()}") as guest:
        theirs = url.replace("postgres@", f"{guest}@")
        assert theirs != url
        run(url, f"REVOKE CREATE ON DATABASE {name} FROM PUBLIC")
        with pytest.raises(StoreFileError, match="CREATE SCHEMA async_delivery AUTHORIZATION"):
            create_store(tmp_path / "store.json", theirs, store_id="store-9", now=NOON)
        assert not (tmp_path / "store.json").exists()

        run(url, f"CREATE SCHEMA async_delivery AUTHORIZATION {guest}")
        file = create_store(tmp_path / "store.json", theirs, store_id="store-9", now=NOON)
        with closing(open_store(file.path, Mode.SERVE)) as store:
            house = House(store)
            house.completed(partials=1)
            assert house.violations() == []

        run(
            url,
            f"ALTER SCHEMA async_delivery OWNER TO postgres; REVOKE ALL ON SCHEMA async_delivery FROM {guest}",
        )
        refused(file.path, "permission denied for schema.* name the role that owns it")
        run(url, "DROP SCHEMA async_delivery CASCADE")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_text_is_refused(tmp_path: Path, encoding: str) -> None:
    server = shared_server()
    name = f"ad_test_{os.getpid()}_{encoding.lower()}"
    server.run(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StoreFileError, match=f"encoding {encoding}.* ENCODING 'UTF8'"):
            create_store(tmp_path / "store.json", server.url_of(name), store_id="store-9", now=NOON)
        assert not (tmp_path / "store.json").exists()
    finally:
        server.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_texts_are_the_same_whatever_encoding_the_environment_asks_for(
    file: StoreFile, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    request = replace(REQUEST, query="Žluťoučký kůň 🐎")

    with closing(open_store(file.path, Mode.SERVE)) as store:
        house = House(store)
        job = house.submit(request=request)

        assert store.read(lambda reader: reader.find_request(ALPHA, job.job_id)) == request


def test_transactions_that_are_read_only_by_default_are_no_obstacle(url: str, tmp_path: Path) -> None:
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    run(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    file = create_store(tmp_path / "store.json", url, store_id="store-9", now=NOON)

    with closing(open_store(file.path, Mode.SERVE)) as store:
        house = House(store)
        assert house.find(house.submit()) is not None


# ---------------------------------------------------------------- secrets
@pytest.fixture(scope="module")
def locked() -> Iterator[tuple[OwnServer, str]]:
    """A server that asks one role for its password, and the URL of an empty database for it."""
    with own_server() as server:
        server.run(f"CREATE ROLE keeper LOGIN PASSWORD '{SECRET}'")
        hba = server.data / "pg_hba.conf"
        hba.write_text("local all keeper scram-sha-256\n" + hba.read_text())
        server.run("SELECT pg_reload_conf()")
        url = server.empty_database()
        run(url, "CREATE SCHEMA async_delivery AUTHORIZATION keeper")
        yield server, url.replace("postgres@", "keeper@")


def as_text(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc)) + repr(exc)


@pytest.mark.parametrize("way", ["PGPASSFILE", "PGPASSWORD", "service file"])
def test_a_password_comes_from_libpqs_own_places_and_goes_nowhere(
    locked: tuple[OwnServer, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    way: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    server, url = locked
    said = psycopg.conninfo.conninfo_to_dict(url)
    if way == "PGPASSFILE":
        (tmp_path / "pass").write_text(f"*:*:*:keeper:{SECRET}\n")
        (tmp_path / "pass").chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pass"))
    elif way == "PGPASSWORD":
        monkeypatch.setenv("PGPASSWORD", SECRET)
    else:
        lines = {"host": said["host"], "dbname": said["dbname"], "user": "keeper", "password": SECRET}
        (tmp_path / "services").write_text("[ad]\n" + "".join(f"{k}={v}\n" for k, v in lines.items()))
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        url = "postgresql:///?service=ad"

    file = ensure_store(tmp_path / "store.json", url, store_id="store-9", now=NOON)
    with closing(open_store(file.path, Mode.SERVE)) as store:
        House(store).store.write(lambda _: None)
        told = repr(store.info()) + store.durability
        server.control("stop", "-m", "immediate")
        try:
            with pytest.raises(UnavailableError) as away:
                store.write(lambda _: None)
        finally:
            server.control("restart")
    told += as_text(away.value) + file.path.read_text() + caplog.text + "".join(capfd.readouterr())

    assert SECRET not in told
    assert "keeper" in told or way == "service file"


def test_a_wrong_password_is_named_without_being_told(
    locked: tuple[OwnServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = locked
    monkeypatch.setenv("PGPASSWORD", "not the word")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "nothing"))

    with pytest.raises(StoreFileError, match="PGPASSFILE") as failed:
        create_store(tmp_path / "store.json", url, store_id="store-9", now=NOON)

    assert "not the word" not in as_text(failed.value)


@pytest.mark.parametrize(
    "secret_url",
    [
        "postgresql://keeper:open%20sesame@localhost/db",
        "postgresql://keeper@localhost/db?password=open%20sesame",
        "postgresql://keeper@localhost/db?sslpassword=open%20sesame",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(tmp_path: Path, secret_url: str) -> None:
    with pytest.raises(StoreFileError, match="does not belong in a store URL") as failed:
        create_store(tmp_path / "store.json", secret_url, store_id="store-9", now=NOON)

    assert "sesame" not in as_text(failed.value)
    assert not (tmp_path / "store.json").exists()


# ---------------------------------------------------------------- migrations
def test_the_migrations_make_the_tables_that_the_statements_speak_of(file: StoreFile, url: str) -> None:
    differences = in_schema(file.database, lambda at: compare_metadata(at, metadata))
    run(url, "CREATE SCHEMA async_delivery")
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL search_path TO async_delivery"))
        metadata.create_all(connection)

    assert differences == []
    # What Alembic does not compare: checks, collations, predicates of indexes.
    assert definitions(file.database) == definitions(url)


def in_schema(url: str, ask: Any) -> Any:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL search_path TO async_delivery"))
        return ask(MigrationContext.configure(connection, opts={"compare_type": True}))


INDEXES = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'async_delivery'"
CONSTRAINTS = (
    "SELECT conrelid::regclass::text, conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = to_regnamespace('async_delivery') AND contype <> 'n'"
)
COLUMNS = (
    "SELECT table_name, concat_ws(' ', column_name, data_type, collation_name, is_nullable, column_default)"
    " FROM information_schema.columns WHERE table_schema = 'async_delivery'"
)


def definitions(url: str) -> list[tuple[str, str]]:
    with psycopg.connect(url) as connection:
        found = [
            row for query in (INDEXES, CONSTRAINTS, COLUMNS) for row in connection.execute(query.encode())
        ]
    return sorted((table, said) for table, said in found if "alembic_version" not in f"{table} {said}")


def test_the_first_schema_becomes_the_newest_whoever_of_several_is_first(
    file: StoreFile, url: str, tmp_path: Path
) -> None:
    at_first(url)
    old = StoreFile(tmp_path / "old.json", "store-1", url, NOON)
    write_store_file(old)
    refused(old.path, "older schema 0001.*start the server", Mode.TOOL)
    refused(old.path, "older schema 0001.*start the server", Mode.READ_ONLY)
    answers = together(*[lambda: open_store(old.path, Mode.SERVE)] * 3)

    for number, store in enumerate(answers):
        assert not isinstance(store, Exception)
        with closing(store):
            house = House(store)
            house.new_id = lambda ids=house.new_id, own=number: f"{own}-{ids()}"  # type: ignore[method-assign, misc]
            job = house.completed(ALPHA, partials=1)
            assert house.stored(job) == job
            assert house.violations() == []
    assert definitions(url) == definitions(file.database)


def at_first(url: str) -> None:
    """A store as the first version of the program made it."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
    config = Config()
    config.set_main_option("script_location", schema.SCRIPT_LOCATION)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA async_delivery"))
        connection.execute(text("SET LOCAL search_path TO async_delivery"))
        config.attributes["connection"] = connection
        command.upgrade(config, schema.REVISIONS[0])
        connection.execute(text("INSERT INTO meta (name, value) VALUES ('store_id', 'store-1')"))


def test_a_migration_that_fails_leaves_the_old_schema_whole(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_first(url)
    old = StoreFile(tmp_path / "old.json", "store-1", url, NOON)
    write_store_file(old)
    before, rows = definitions(url), dump(old)

    def broken(*_: object) -> None:
        raise psycopg.errors.DiskFull("no space left on the disk of the database")

    monkeypatch.setattr(migrate, "_upgrade", after(migrate._upgrade, broken))
    refused(old.path, "no space left")
    assert definitions(url) == before
    assert dump(old) == rows

    monkeypatch.undo()
    open_store(old.path, Mode.SERVE).close()


def after(first: Any, then: Any) -> Any:
    def both(*arguments: Any) -> None:
        first(*arguments)
        then(*arguments)

    return both


def test_opening_a_current_store_needs_no_alembic(file: StoreFile) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from async_delivery.storage.opening import Mode, open_store\n"
        "open_store(Path(sys.argv[1]), Mode.SERVE).close()\n"
        "print('alembic' in sys.modules)"
    )
    assert ended(started(program, file.path)).strip() == "False"
    without = "import sys, async_delivery.storage.opening\nprint('psycopg' in sys.modules)"
    assert ended(started(without)).strip() == "False"


# ---------------------------------------------------------------- behind a pooler
def test_everything_works_where_a_pooler_lends_connections_by_the_transaction(
    file: StoreFile, tmp_path: Path
) -> None:
    with Pooler(file.database) as pooler:
        through = create_store(tmp_path / "pooled.json", pooler.url, store_id="not used", now=NOON)
        with closing(open_store(through.path, Mode.SERVE)) as store:
            house = House(store)
            jobs = [house.completed(partials=2, payload={"number": number}) for number in range(15)]
            house.submit_many(40)
            claims = together(*[lambda: [house.claim(5), house.claim(5)]] * 8)
            claims.append([house.claim(40)])
            with store.cleanup_lock():
                deleted = store.read(lambda reader: reader.facts().store_id)
            assert [house.stored(job) for job in jobs] == jobs
            assert len([job for claimer in claims for claimed in claimer for job in claimed]) == 40
            assert deleted == file.store_id
            assert house.violations() == []
            assert pooler.lent > 100
    assert by_hand(file, "SHOW default_transaction_read_only") == [("off",)]
