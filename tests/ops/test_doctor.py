"""What the doctor's bundle must not hold: secrets planted everywhere, names of tenants, what belongs to jobs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_delivery.ops.scrub import GONE, Scrubber, scrub_text, secret_name
from tests.system.live import COMMAND, LiveServer

# ---------------------------------------------------------------- scrubbing text

UUID = "01a209bf-2a68-7b49-af46-81f07e29b37f"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("{'Authorization': 'Token hunter2'}", "hunter2"),
        ('{"authorization": "Token hunter2, and more"}', "hunter2, and more"),
        ("b'cookie', b'sid=hunter2; theme=dark'", "hunter2"),
        ("Set-Cookie: sid=hunter2; HttpOnly", "hunter2"),
        ("X-Api-Key: hunter2", "hunter2"),
        ("sent with bearer hunter22", "hunter22"),
        ("postgresql://ops:hunter2@db.example.org/jobs", "hunter2"),
        ("https://hunter2@example.org/hook", "hunter2"),
        ("amqp://u:p@ss@host", "p@ss"),
        ("signing with whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJzdWIiOiIxIn0"),
        ("key sk_live_4eC39HqLyjWDarjtT1", "4eC39HqLyjWDarjtT1"),
        ("key ghp_16C7e42F292c6912E7710c838347Ae178B4a", "16C7e42F292c6912E7710c838347Ae178B4a"),
        ("key AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("password=hunter2", "hunter2"),
        ("password = 'hunter 2'", "hunter 2"),
        ('"db_password": "hun\\"ter2"', "ter2"),
        ("GET /hook?token=hunter2&x=1", "hunter2"),
        ("client_secret: hunter2", "hunter2"),
        ("api-key=hunter2;", "hunter2"),
        ("token c9f0f895fb98ab9159f51fd0297e236d", "c9f0f895fb98ab9159f51fd0297e236d"),
        ("value Zm9vYmFyYmF6MTIzNDU2Nzg5MA==", "Zm9vYmFyYmF6MTIzNDU2Nzg5MA"),
        ("value a8Kd93-kLs0_92jdKQ-mzn2A8", "a8Kd93-kLs0_92jdKQ-mzn2A8"),
        ("password='hunter2 \\", "hunter2"),
        ('body {\\"password\\": \\"hunter2\\"}', "hunter2"),
        ('headers {\\"Authorization\\": \\"Token hunter2\\"}', "hunter2"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\nVQIB\n-----END PRIVATE KEY-----\nafter", "VQIB"),
    ],
)
def test_a_secret_goes_by_its_name_or_by_its_form(text: str, secret: str) -> None:
    scrubbed = scrub_text(text)

    assert secret not in scrubbed
    assert GONE in scrubbed


@pytest.mark.parametrize(
    "text",
    [
        f"job {UUID} completed",
        f"GET /analyze/results/{UUID}?view=latest answers 404 not_found (request {UUID})",
        "async_notifications_terminal_jobs_without_in_app_10m is warning at 2",
        "artifacts/async/smoke-staging-20261123T185053Z.json is green",
        "retention-smoke-staging-idempotent-20261123T185054Z-2.json",
        "2026-11-23T18:50:57.600Z http://127.0.0.1:8080/health",
        "/usr/local/lib/python3.11/site-packages/async_delivery/storage/sqlite_readers.py",
        "heartbeat_seconds=10 results_ttl_seconds=604800 token_count=5",
        '{"level": "info", "route": "/analyze/jobs/{job_id}", "status": 200, "ms": 1.25}',
        "a write is acknowledged after it is synced to disk (WAL, synchronous=FULL)",
        'async_delivery_http_request_seconds_bucket{le="0.005",route="/analyze/results/{result_id}"} 12',
    ],
)
def test_what_an_operator_needs_stays(text: str) -> None:
    assert scrub_text(text) == text


FORMS = (
    "Authorization: Bearer {}",
    '"password": "{}"',
    "password='{}",
    "https://u:{}@h/",
    "whsec_{}",
    "x?token={}&y",
    "-----BEGIN X-----\n{}\n-----END X-----",
)


SURROUNDINGS = st.text("abc0 =:,;\"'\\\n{}[]()@/?&-_\N{SNOWMAN}", max_size=30)


@given(
    SURROUNDINGS,
    st.sampled_from(FORMS),
    st.text("ABCDEFGHJKMNPQRSTUVWXYZ23456789", min_size=12, max_size=40),
    SURROUNDINGS,
)
def test_no_secret_survives_whatever_stands_around_it(
    before: str, form: str, secret: str, after: str
) -> None:
    assert secret not in scrub_text(f"{before} {form.format(secret)} {after}")


@pytest.mark.parametrize("line", ["a" * 1_000_000, "aB3" * 300_000, "token=" * 100_000, "x://" * 200_000])
def test_a_line_of_a_megabyte_is_scrubbed_in_time(line: str) -> None:
    began = perf_counter()

    scrub_text(line)

    assert perf_counter() - began < 20


def test_a_known_value_goes_wherever_it_stands() -> None:
    assert scrub_text("xx-correct horse-yy", ["correct horse", "xx"]) == f"xx-{GONE}-yy"


@pytest.mark.parametrize(
    "name", ["PGPASSWORD", "API_KEY", "apiKey", "webhook_secret", "Cookie", "authorization"]
)
def test_what_is_named_like_a_secret_is_taken_for_one(name: str) -> None:
    assert secret_name(name)


@pytest.mark.parametrize("name", ["token_count", "lease_seconds", "key", "PATH", "keep_env", "requested_at"])
def test_what_only_sounds_like_a_secret_is_not(name: str) -> None:
    assert not secret_name(name)


def test_a_tenant_has_one_pseudonym_in_a_bundle_and_another_in_the_next() -> None:
    value = {"org_id": "acme", "per_tenant": {"acme": {"results": 1}}, "detail": "tenant acme has no job"}
    one, two = (Scrubber((), ["acme"], key) for key in (b"1", b"2"))

    shown = one.value(value)

    name = shown["org_id"]
    assert name.startswith("tenant-")
    assert shown == {
        "org_id": name,
        "per_tenant": {name: {"results": 1}},
        "detail": f"tenant {name} has no job",
    }
    assert two.value(value)["org_id"] != name
    assert Scrubber((), ["acme"], None).value(value) == value


def test_a_tenants_name_is_only_taken_out_as_a_whole_word() -> None:
    scrubber = Scrubber((), ["acme"], b"k")

    assert scrubber.text("acmeism pacme acme-prod") == "acmeism pacme acme-prod"
    assert "acme" not in scrubber.text("acme, acme. (acme) /acme/ acme:")


# ---------------------------------------------------------------- the bundle


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle as somebody would unpack it."""

    files: dict[str, bytes]
    mode: int

    @property
    def everything(self) -> bytes:
        return b"\n".join(name.encode() + b"\n" + data for name, data in self.files.items())

    def json(self, name: str) -> Any:
        return json.loads(self.files[name])


def doctor(
    folder: Path, *options: str, url: str, environ: dict[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], Packed]:
    done = subprocess.run(
        [COMMAND, "doctor", "--base-url", url, *options],
        cwd=folder,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path = folder / done.stdout.strip()
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:gz") as tar:
        files = {}
        for entry in tar:
            content = tar.extractfile(entry)
            assert content is not None
            files[entry.name.partition("/")[2]] = content.read()
    return done, Packed(files, path.stat().st_mode & 0o777)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, "--slots", "1").start()
    yield live
    live.stop()


def url_of(server: LiveServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def test_a_bundle_has_every_part_and_is_for_its_owner(server: LiveServer) -> None:
    server.ended(server.submit(stages=1, stage_seconds=0))
    artefacts = server.folder / "artifacts/async"
    artefacts.mkdir(parents=True)
    (artefacts / "retention-live.json").write_text(json.dumps({"dry_run": False, "errors": []}))

    _, packed = doctor(server.folder, "--log", "server.log", url=url_of(server))

    assert packed.mode == 0o600
    assert packed.json("errors.json") == {}
    assert {
        "README.txt",
        "versions.json",
        "system.json",
        "settings.json",
        "store.json",
        "server.json",
    } <= set(packed.files)
    assert packed.json("store.json")["jobs"] == [{"status": "completed", "analysis": "selftest", "count": 1}]
    assert packed.json("store.json")["facts"]["schema_revision"]
    assert packed.json("server.json")["/health"]["status"] == 200
    assert packed.json("artefacts/retention-live.json") == {"dry_run": False, "errors": []}
    assert packed.json("settings.json")["settings"]["port"] == {"value": 8080, "origin": "default"}
    assert packed.json("versions.json")["packages"]["click"]


def test_no_secret_and_no_tenant_gets_into_a_bundle(server: LiveServer) -> None:
    canaries = {
        name: f"{name}-kanarienvogel-{number}"
        for number, name in enumerate(
            ("env", "setting", "toml", "url", "log", "param", "query", "label", "result", "error", "header")
        )
    }
    tenant = "kanaren-gmbh"
    body = {
        "analysis": "selftest",
        "query": canaries["query"],
        "params": {"stages": 1, "stage_seconds": 0},
        "labels": {"where": canaries["label"]},
        "options": {"async_mode": {"requested": True}},
    }
    job = server.ask("POST", "/analyze", body, org=tenant).json()["job"]
    server.ended(job["job_id"], org=tenant)
    wrong = {**body, "params": {"stages": canaries["param"]}}
    assert server.ask("POST", "/analyze", wrong, org=tenant).status == 400
    (server.folder / "async-delivery.toml").write_text(
        f'store_url = "postgresql://u:{canaries["toml"]}@h/d"\n'
    )
    artefacts = server.folder / "artifacts/async"
    artefacts.mkdir(parents=True)
    (artefacts / "retention-live.json").write_text(
        json.dumps(
            {
                "per_tenant": {tenant: {"results": 1}},
                "errors": [f"webhook_secret={canaries['error']} of tenant {tenant}"],
            }
        )
    )
    (artefacts / "smoke-staging-1.json").write_text(
        json.dumps({"org_id": tenant, "checks": [{"id": "health", "detail": f"tenant {tenant}: down"}]})
    )
    log = server.folder / "service.log"
    log.write_text(
        "\n".join(
            [
                json.dumps({"event": "x", "tenant": tenant, "password": canaries["log"]}),
                f"Authorization: Bearer {canaries['header']}",
                f"dialling https://ops:{canaries['url']}@hooks.example.org/ for {tenant}",
                f"key whsec_{canaries['result']}",
                "-----BEGIN PRIVATE KEY-----",
                "a2FuYXJpZW4=",
                "-----END PRIVATE KEY-----",
            ]
        )
    )
    environ = {
        "MY_API_KEY": canaries["env"],
        "ASYNC_DELIVERY_WEBHOOK_SECRET": canaries["setting"],
        "ASYNC_DELIVERY_ORG": tenant,
        "PGPASSWORD": "kanarienvogel-pg",
    }
    log.write_text(log.read_text() + f"\nthe value {canaries['env']} by itself, and kanarienvogel-pg")

    _, packed = doctor(server.folder, "--log", "service.log", url=url_of(server), environ=environ)
    _, named = doctor(
        server.folder, "--log", "service.log", "--with-tenants", url=url_of(server), environ=environ
    )

    for everything in (packed.everything, named.everything):
        assert [name for name, canary in canaries.items() if canary.encode() in everything] == []
        assert b"kanarienvogel" not in everything
        assert b"a2FuYXJpZW4" not in everything
    assert tenant.encode() not in packed.everything
    assert tenant.encode() in named.everything
    # It is a bundle still: the names of variables and what was not secret are there.
    assert "PGPASSWORD" in packed.json("settings.json")["variables"]
    (pseudonym,) = packed.json("artefacts/retention-live.json")["per_tenant"]
    assert packed.json("artefacts/smoke-staging-1.json")["org_id"] == pseudonym
    assert pseudonym.encode() in packed.files["log.txt"]
    assert b"hooks.example.org" in packed.files["log.txt"]


def test_settings_that_cannot_be_used_are_named_without_what_was_given(tmp_path: Path) -> None:
    environ = {"ASYNC_DELIVERY_PORT": "kanarienvogel", "ASYNC_DELIVERY_SLOTS": "0"}

    done, packed = doctor(tmp_path, url=f"http://127.0.0.1:{LiveServer(tmp_path).port}", environ=environ)

    assert sorted(packed.json("settings.json")["settings"]["faults"]) == [
        "ASYNC_DELIVERY_PORT: cannot be used",
        "ASYNC_DELIVERY_SLOTS: cannot be used",
    ]
    assert b"kanarienvogel" not in packed.everything
    assert "kanarienvogel" not in done.stderr


def test_a_part_that_cannot_be_had_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "runtime/async_jobs").mkdir(parents=True)
    (tmp_path / "runtime/async_jobs/store.v1.json").write_text("{ half of")

    done, packed = doctor(tmp_path, url=f"http://127.0.0.1:{LiveServer(tmp_path).port}")

    errors = packed.json("errors.json")
    assert sorted(errors) == ["server", "store"]
    assert "damaged or truncated" in errors["store"]
    assert "no server answers" in errors["server"]
    assert packed.json("store.json")["files"][0]["name"] == "store.v1.json"
    assert "left out store" in done.stderr


def test_only_the_end_of_a_long_log_is_taken_and_no_half_line(tmp_path: Path) -> None:
    line = '{"event": "request", "number": %d, "authorization": "Bearer kanarienvogel"}\n'
    (tmp_path / "long.log").write_text("".join(line % number for number in range(100_000, 130_000)))

    _, packed = doctor(tmp_path, "--log", "long.log", url=f"http://127.0.0.1:{LiveServer(tmp_path).port}")

    lines = packed.files["log.txt"].decode().splitlines()
    assert len(lines) == 500
    assert [json.loads(each)["number"] for each in lines] == list(range(129_500, 130_000))
    assert b"kanarienvogel" not in packed.everything


@pytest.mark.parametrize("arguments", [("--log", "nowhere.log"), ("--output", "there.txt")])
def test_wrong_usage_is_refused(tmp_path: Path, arguments: tuple[str, str]) -> None:
    (tmp_path / "there.txt").write_text("mine")

    done = subprocess.run(
        [COMMAND, "doctor", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["there.txt"]
    assert (tmp_path / "there.txt").read_text() == "mine"
