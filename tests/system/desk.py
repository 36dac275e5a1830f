"""Where an operator works: the commands of operation against a live server, and a hand in its store."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.live import LiveServer, run_command

STORE_FILE = "runtime/async_jobs/store.v1.json"


@dataclass(frozen=True, slots=True)
class Smoke:
    """How a smoke command ended."""

    code: int
    document: dict[str, Any]
    err: str

    @property
    def outcomes(self) -> dict[str, str]:
        return {check["id"]: check["outcome"] for check in self.document["checks"]}

    @property
    def failed(self) -> dict[str, str]:
        return {check["id"]: check["detail"] for check in self.document["checks"] if check["ok"] is False}


@dataclass(frozen=True, slots=True)
class Desk:
    """Where an operator works: a server, a folder for the artefacts, a tenant."""

    server: LiveServer
    folder: Path
    org: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def artefacts(self) -> Path:
        return self.folder / "artifacts/async"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, "--base-url", self.url, "--store-file", self.store, cwd=self.folder)

    @property
    def store(self) -> str:
        path = self.server.store_file
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def smoke(self, profile: str, *options: str, url: str | None = None, cwd: Path | None = None) -> Smoke:
        done = run_command(
            *("smoke", profile, "--json", "--base-url", url or self.url),
            *(() if "--org" in options else ("--org", self.org)),
            *(() if cwd else ("--store-file", self.store)),
            *options,
            cwd=cwd or self.folder,
        )
        assert done.stdout, done.stderr
        return Smoke(done.returncode, json.loads(done.stdout), done.stderr)

    def triage(self, *options: str, url: str | None = None) -> tuple[int, dict[str, Any]]:
        done = run_command(
            *("triage", "--json", "--base-url", url or self.url, "--store-file", self.store),
            *(() if {"--org", "--tenant-id"} & set(options) else ("--org", self.org)),
            *options,
            cwd=self.folder,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of the tenant."""
        found: list[dict[str, Any]] = self.server.ask("GET", "/analyze/jobs", org=self.org).json()["jobs"]
        return found

    def ended(self, org: str | None = None) -> dict[str, Any]:
        """A job of this desk's tenant, or of another, that has completed."""
        org = org or self.org
        return self.server.ended(self.server.submit(org=org, stages=1, stage_seconds=0), org=org)


@contextmanager
def by_hand(desk: Desk) -> Iterator[sqlite3.Connection]:
    """One transaction of an operator with an SQLite shell."""
    database = desk.server.store_file.with_name("store.v1.sqlite3")
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        yield connection


def free_port() -> int:
    return LiveServer(Path()).port
