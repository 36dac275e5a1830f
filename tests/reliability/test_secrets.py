"""R20: secrets are planted wherever one can get in, and looked for in all that leaves the service or stays behind."""

from __future__ import annotations

import gzip
import os
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on
from tests.reliability.hostile import message, send
from tests.reliability.population import Population
from tests.reliability.traffic import ask
from tests.system.live import run_command

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
OWNER, OTHER = "owner", "other"
GUEST = ("--analysis", "tests.reliability.secrets_guest:blabs", "--log-level", "debug")


def canary(place: str) -> str:
    """A text that nothing else contains. Neither its name nor its form says that it is a secret."""
    return f"canary{place}{os.getpid()}q7x"


# What the service is never to keep or show at all.
ALIEN = {
    "PGPASSWORD": canary("Libpq"),
    "SOMETHING_ELSE": canary("Environ"),
}
HEADERS = {
    "Authorization": f"Bearer {canary('Bearer')}",
    "Cookie": f"session={canary('Cookie')}",
    "X-Api-Key": canary("Key"),
    "Referer": f"http://x/?{canary('Referer')}",
}
IN_URL = canary("Url")
NOWHERE = [*ALIEN.values(), *(canary(name) for name in ("Bearer", "Cookie", "Key", "Referer")), IN_URL]
# What belongs to its tenant, in the store and in that tenant's own answers.
OWN = {
    name: canary(name) for name in ("Param", "Query", "Label", "Idempotency", "Reason", "File", "Filename")
}
HOW = ("completes", "raises", "crashes", "exits")


@dataclass
class Place:
    """Something that was looked at, and whether a tenant's own secrets may be in it."""

    name: str
    content: bytes
    own: bool = False

    def found(self) -> list[str]:
        wanted = NOWHERE if self.own else [*NOWHERE, *OWN.values()]
        forms = [(one, form) for one in wanted for form in (one, quote(one), one[::-1])]
        return [f"{one} in {self.name}" for one, form in forms if form.encode() in self.content]


def plant(fleet: Fleet) -> None:
    """Send secrets by every way there is."""
    people = Population(fleet, OWNER)
    port = fleet.ports[0]
    ids = []
    for how in HOW:
        body = {
            "analysis": "blabs",
            "params": {"secret": OWN["Param"], "how": how},
            "query": OWN["Query"],
            "labels": {"note": OWN["Label"]},
            "options": {"async_mode": {"requested": True}},
        }
        headers = {**HEADERS, "Idempotency-Key": OWN["Idempotency"] + how}
        answer = ask(port, "POST", f"/analyze?token={IN_URL}", org_id=OWNER, body=body, headers=headers)
        assert answer.status == 202, answer.body
        ids.append(answer.json()["job"]["job_id"])
    people.ended(ids)
    people.cancel(people.submit("selftest", stages=50, stage_seconds=0.2))
    ask(
        port,
        "POST",
        f"/analyze/jobs/{ids[0]}/cancel",
        org_id=OWNER,
        body={"reason": OWN["Reason"]},
        headers=HEADERS,
    )
    for path in (
        "/analyze/jobs",
        "/nowhere",
        f"/analyze/jobs/{ids[0]}",
        "/analyze/results/x",
        "/health",
        "/metrics",
    ):
        ask(port, "GET", f"{path}?password={IN_URL}", org_id=OWNER, headers=HEADERS)
        send(port, message("BREW", f"{path}?p={IN_URL}".encode(), *_raw(HEADERS), org=OWNER))
    form = (
        b'--b\r\nContent-Disposition: form-data; name="request"\r\n\r\n'
        b'{"analysis":"blabs","params":{"secret":"%b","how":"raises"},"options":{"async_mode":{"requested":true}}}\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="%b.csv"\r\n\r\n%b\r\n--b--\r\n'
    ) % tuple(OWN[name].encode() for name in ("Param", "Filename", "File"))
    kind = b"Content-Type: multipart/form-data; boundary=b"
    sent = send(port, message("POST", b"/analyze", kind, *_raw(HEADERS), body=form, org=OWNER))
    assert sent is not None
    assert sent[0].status == 202, sent[0].body
    # Bodies that are refused, with the secret where the fault is.
    for bad in (
        b'{"params":{"secret":7,"%b":1},"analysis":"blabs"}',
        b'{"analysis":"%b"}',
        b'{"query":"%b"',
        b'["%b"]',
    ):
        send(
            port,
            message(
                "POST",
                b"/analyze",
                b"Content-Type: application/json",
                body=bad % OWN["Param"].encode(),
                org=OWNER,
            ),
        )
    people.ended(people.in_state("queued", "running", "partial"))


def _raw(headers: dict[str, str]) -> list[bytes]:
    return [f"{name}: {value}".encode() for name, value in headers.items()]


def places(fleet: Fleet, folder: Path) -> Iterator[Place]:
    """Everything that can be read afterwards, by whomever."""
    port = fleet.ports[0]
    owner = Population(fleet, OWNER)
    jobs = owner.in_state("completed", "failed", "canceled")
    for path in ("/metrics", "/health", "/health/ready", "/ops/signals", "/openapi.json", "/analyses"):
        yield Place(path, ask(port, "GET", path, org_id=OTHER).body)
    routes = [
        "/analyze/jobs",
        *(
            f"/analyze/jobs/{job}{more}"
            for job in jobs
            for more in ("", "/events", "/results", "/logs", "/notifications")
        ),
    ]
    for path in routes:
        answer = ask(port, "GET", path, org_id=OTHER)
        yield Place(f"{path} for another tenant", repr(sorted(answer.headers.items())).encode() + answer.body)
        answer = ask(port, "GET", path, org_id=OWNER)
        yield Place(path, repr(sorted(answer.headers.items())).encode() + answer.body, own=True)
    bundle = folder / "bundle.tar.gz"
    url = ("--base-url", f"http://127.0.0.1:{port}", "--store-file", str(fleet.store_file))
    for log in folder.rglob("server.log"):
        done = run_command("doctor", *url, "--log", str(log), "--output", str(bundle), cwd=folder)
        assert bundle.exists(), done.stderr
        with tarfile.open(bundle) as tar:
            for member in tar.getmembers():
                if (file := tar.extractfile(member)) is not None:
                    yield Place(f"doctor {member.name}", file.read())
        yield Place("doctor's words", (done.stdout + done.stderr).encode())
    bundle.unlink()
    for node in fleet.nodes:
        for one in node.processes()[1:]:
            with suppress(OSError, psutil.NoSuchProcess):
                yield Place(
                    f"environment of {one.name()}", Path(f"/proc/{one.pid}/environ").read_bytes(), own=True
                )
                yield Place(f"command line of {one.name()}", Path(f"/proc/{one.pid}/cmdline").read_bytes())


def left_behind(fleet: Fleet, folder: Path) -> Iterator[Place]:
    """What is on the disk once everything has ended."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield Place(str(path.relative_to(folder)), path.read_bytes(), own=".sqlite3" in path.name)
            assert not path.name.startswith("core"), path
    for core in Path.cwd().glob("core*"):
        raise AssertionError(f"a core file: {core}")
    if fleet.store == "postgres":
        yield Place("the database", rows_of_postgres(fleet.url), own=True)
    else:
        yield Place("the database", rows_of_sqlite(fleet.store_file.with_name("store.v1.sqlite3")), own=True)


def rows_of_sqlite(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as store:
        return "\n".join(store.iterdump()).encode("utf-8", "surrogateescape") + _bodies(
            row[0] for row in store.execute("SELECT data FROM result_bodies")
        )


def rows_of_postgres(url: str) -> bytes:
    with psycopg.connect(url) as store:
        names = store.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'async_delivery'"
        ).fetchall()
        text = b""
        for (name,) in names:
            with store.cursor().copy(f"COPY async_delivery.{name} TO STDOUT".encode()) as rows:
                text += b"".join(bytes(piece) for piece in rows)
        bodies = store.execute("SELECT data FROM async_delivery.result_bodies").fetchall()
        return text + _bodies(row[0] for row in bodies)


def _bodies(found: Iterator[Any]) -> bytes:
    pieces = []
    for one in found:
        data = bytes(one)
        with suppress(gzip.BadGzipFile):
            data = gzip.decompress(data)
        pieces.append(data)
    return b"".join(pieces)


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_no_planted_secret_is_found_where_it_does_not_belong(
    store: str, tmp_path: Path, score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ALIEN.items():
        monkeypatch.setenv(name, value)
    with fleet_on(store, tmp_path, *GUEST, servers=1, workers=1, slots=2) as fleet:
        plant(fleet)
        looked = list(places(fleet, tmp_path))
        fleet.stop()
        looked += left_behind(fleet, tmp_path)

    # A search that finds nothing anywhere would prove nothing: the owner's secrets are where they belong.
    kept = b"".join(place.content for place in looked if place.own)
    assert [
        name for name, value in OWN.items() if value.encode() not in kept and name not in ("Reason", "File")
    ] == []
    found = [one for place in looked for one in place.found()]
    print(len(looked), *found, sep="\n")
    score("R20", store, len(found), cases=len(looked) * (len(NOWHERE) + len(OWN)))
