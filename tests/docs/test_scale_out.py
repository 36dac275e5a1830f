"""docs/howto/scale-out.md, followed by somebody who types what it says: an embedded store to PostgreSQL, and back."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from async_delivery.settings import BY_NAME
from tests.docs.pages import ROOT, Fence, fences, read
from tests.ops.manifests import INSTALLED, unit
from tests.postgres import shared_server
from tests.system.live import COMMAND, DEADLINE_SECONDS, LiveServer, eventually

PAGE = "docs/howto/scale-out.md"
SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$CALLS"
"""
SUDO = """#!/bin/sh
exec "$@"
"""


class Machine:
    """A machine with systemd, as far as the page needs it: units are started by what their files say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etc, self.bin, self.calls = folder / "etc", folder / "bin", folder / "calls"
        for made in (self.etc, self.bin):
            made.mkdir()
        for name, text in (("systemctl", SYSTEMCTL), ("sudo", SUDO)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self.environment: dict[str, str] = {}
        self.running: dict[str, LiveServer] = {}
        api, worker = LiveServer(self._home()), LiveServer(self._home())
        self.servers = {"async-delivery": api, "async-delivery-api": api, "async-delivery-worker@1": worker}
        self.url = shared_server().empty_database()
        said = "".join(f"{key}={value}\n" for key, value in conninfo_to_dict(self.url).items())
        (self.etc / "pg_service.conf").write_text(f"[async-delivery]\n{said}")

    def _home(self) -> Path:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return home

    @property
    def api(self) -> LiveServer:
        return self.servers["async-delivery"]

    def types(self, fence: Fence) -> str:
        """Run a block of the page as it stands, but for folders and ports; then do what systemd was asked for."""
        text = fence.text.replace("/etc/async-delivery", str(self.etc))
        for documented, name in (("8080", "async-delivery"), ("8081", "async-delivery-worker@1")):
            text = text.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{self.servers[name].port}")
        self.calls.write_text("")
        done = subprocess.run(
            ["/bin/bash", "-e", "-c", text],
            cwd=self.folder / "home",
            env=self._variables(
                CALLS=str(self.calls), ASYNC_DELIVERY_BASE_URL=f"http://127.0.0.1:{self.api.port}"
            ),
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{PAGE}:{fence.line}\n{text}\n{done.stdout}\n{done.stderr}"
        for call in self.calls.read_text().splitlines():
            verb, now, *units = call.split()
            assert now == "--now"
            for name in units:
                self.start(name) if verb == "enable" else self.stop(name)
        return done.stdout

    def _variables(self, **more: str) -> dict[str, str]:
        path = f"{self.bin}:{Path(COMMAND).parent}:/usr/bin:/bin"
        return {"PATH": path, "PGSERVICEFILE": str(self.etc / "pg_service.conf"), **more}

    def start(self, name: str) -> None:
        stem, _, instance = name.partition("@")
        service = unit(ROOT / f"deploy/systemd/{stem}{'@' if instance else ''}.service")["Service"]
        server = self.servers[name]
        command = shlex.split(service["ExecStart"].replace(INSTALLED, str(ROOT)).replace("%i", instance))
        # Not the documented port, and a second for a job that takes an hour.
        command = [{"8081": str(server.port), "300": "1"}.get(word, word) for word in command]
        own = {"ASYNC_DELIVERY_SLOTS": "2", "ASYNC_DELIVERY_DRAIN_GRACE_SECONDS": "1"}
        if "worker" not in name:
            own["ASYNC_DELIVERY_PORT"] = str(server.port)
        with (self.folder / "home/server.log").open("ab") as log:
            server.process = subprocess.Popen(
                command,
                cwd=server.folder,
                env=self._variables(**self.environment, **own),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running[name] = server
        eventually(server.answers, f"{name} does not answer")

    def database(self) -> str:
        """What the store file in its place names."""
        named: str = json.loads(self.api.store_file.read_text())["database"]
        return named

    def stop(self, name: str) -> None:
        assert self.running.pop(name).stop() == 0

    def end(self) -> None:
        for server in self.running.values():
            server.kill_everything()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    try:
        yield made
    finally:
        made.end()


def environment_of(page: str) -> dict[str, str]:
    """The environment file that the page gives."""
    (text,) = [
        fence.text for fence in fences(page) if fence.language == "ini" and "ASYNC_DELIVERY_" in fence.text
    ]
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.mark.long
@pytest.mark.postgres
def test_the_way_to_many_machines_and_back_keeps_every_record_and_byte(machine: Machine) -> None:
    page = read(PAGE)
    there, back = page.split("\n## Back to one machine\n")
    environment = {**environment_of(page), "ASYNC_DELIVERY_TRUSTED_PROXY": "127.0.0.1/32"}
    assert environment["ASYNC_DELIVERY_HOST"] == "0.0.0.0"
    machine.start("async-delivery")
    api = machine.api
    done = [api.submit(org="acme", stages=2, stage_seconds=0) for _ in range(3)]
    results = [api.ended(job_id, org="acme")["result_id"] for job_id in done]
    left = api.submit(org="beta", stages=1, stage_seconds=3600)
    before = [api.ask("GET", f"/analyze/results/{each}", org="acme") for each in results]

    shown = []
    for fence in fences(there):
        if fence.language == "sh":
            if "curl" in fence.text:
                eventually(lambda: api.ask("GET", "/health/ready").status == 200, "the API is not ready")
            shown.append(machine.types(fence))
            machine.environment = environment
        elif fence.language == "sql" and "DROP" in fence.text:
            api.ended(api.submit(org="acme", stages=1, stage_seconds=0), org="acme")  # it goes on meanwhile
            with psycopg.connect(machine.url, autocommit=True) as connection:
                connection.execute(fence.text.encode())

    # The same addresses and bytes, and what was not finished there goes on here.
    after = [api.ask("GET", f"/analyze/results/{each}", org="acme") for each in results]
    assert [(answer.status, answer.body) for answer in after] == [(200, answer.body) for answer in before]
    assert [answer.headers["etag"] for answer in after] == [answer.headers["etag"] for answer in before]
    eventually(
        lambda: api.job(left, org="beta")["status"] in {"running", "partial"}, "the job does not go on"
    )
    assert machine.database().startswith("postgresql:")
    assert any("move.json" in text and "arrived.json" in text for text in shown)

    machine.environment = environment
    for number, fence in enumerate(fence for fence in fences(back) if fence.language == "sh"):
        if number == 2:
            machine.environment = {}
        machine.types(fence)

    assert machine.database() == "sqlite:store.v1.sqlite3"
    again = [api.ask("GET", f"/analyze/results/{each}", org="acme") for each in results]
    assert [answer.body for answer in again] == [answer.body for answer in before]
    assert api.job(left, org="beta")["status"] in {"queued", "running", "partial"}


def test_every_variable_and_unit_on_the_page_is_there() -> None:
    page = read(PAGE)

    assert set(environment_of(page)) <= {setting.variable for setting in BY_NAME.values()}
    for name in set(re.findall(r"\basync-delivery-[a-z]+(?:@1?)?\.service\b", page)):
        assert (ROOT / "deploy/systemd" / name.replace("@1", "@")).exists(), name
    for name in set(re.findall(r"`(\w+_seconds|cleanup_schedule)`", page)):
        assert name in BY_NAME, name
