"""R16 and R18, over HTTP on real servers: another tenant's things are as unknown as what never was."""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on
from tests.reliability.population import Population
from tests.reliability.traffic import TENANTS, Answer, ask

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UNKNOWN = "01900000-0000-7000-8000-000000000000"
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
STRANGER = "stranger"
# What might make a route look at the thing before it looks whose it is.
VARIANTS: tuple[dict[str, str], ...] = (
    {},
    {"If-None-Match": "*"},
    {"Prefer": "wait=1"},
    {"Range": "bytes=0-9"},
    {"Accept": "application/problem+json"},
    {"Accept": "text/event-stream"},
    {"Idempotency-Key": "k"},
)


@pytest.fixture(scope="module", params=STORES)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_on(request.param, tmp_path_factory.mktemp("strangers"), servers=1, workers=1, slots=4) as it:
        yield it


def routes(fleet: Fleet) -> list[str]:
    """Every path of the published OpenAPI file."""
    document = ask(fleet.ports[0], "GET", "/openapi.json").json()
    return sorted(document["paths"])


def raw(port: int, method: str, path: str, headers: dict[str, str]) -> bytes:
    """The whole answer as it came over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: it", "Connection: close", "Content-Length: 0"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        got = b""
        while chunk := connection.recv(65_536):
            got += chunk
    return got


def blurred(answer: bytes, ident: str) -> bytes:
    """Without what may differ: the id that was asked for, the request's own id, the date."""
    answer = re.sub(rb"(?im)^(date|x-request-id): .*\r\n", b"", answer)
    answer = re.sub(rb'"request_id": ?"[^"]*"', b'"request_id":""', answer)
    return answer.replace(ident.encode(), b"ID")


@pytest.mark.slow
def test_a_foreign_and_an_unknown_id_are_the_same_bytes_on_every_route_and_method(
    fleet: Fleet, score: Score
) -> None:
    # given: things of a tenant in every state
    people = Population(fleet, "owner")
    done, failed = people.submit("selftest", stages=1), people.submit("selftest", outcome="fail")
    running = people.submit("selftest", stages=500, stage_seconds=0.1)
    ended = people.ended([done, failed])
    things = {"job_id": [done, failed, running], "result_id": [ended[0]["result_id"]]}

    # when
    differing, asked = 0, 0
    for path in routes(fleet):
        names = re.findall(r"{(\w+_id)}", path)
        if not names:
            continue
        for method in METHODS:
            for more in VARIANTS:
                headers = {"X-Org-Id": STRANGER, **more}
                unknown = raw(fleet.ports[0], method, path.replace(f"{{{names[0]}}}", UNKNOWN), headers)
                for ident in things[names[0]]:
                    foreign = raw(fleet.ports[0], method, path.replace(f"{{{names[0]}}}", ident), headers)
                    asked += 1
                    if blurred(foreign, ident) != blurred(unknown, UNKNOWN):
                        differing += 1
                        print(f"{method} {path} {more}\n{foreign!r}\n{unknown!r}")
    people.cancel(running)

    # then: nothing was told, and nothing was done
    score("R16", fleet.store, differing, cases=asked)
    assert asked > 500
    assert {job["job_id"]: job["status"] for job in ended} == {done: "completed", failed: "failed"}
    assert people.job(done)["held"] is False


@dataclass
class World:
    """What belongs to whom, as three tenants know it. Ids of everything that was made for a tenant."""

    fleet: Fleet
    chance: random.Random
    owned: dict[str, set[str]] = field(default_factory=lambda: {org: set() for org in TENANTS})
    jobs: list[tuple[str, str]] = field(default_factory=list)
    results: list[tuple[str, str]] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)
    asked: int = 0

    def ask(self, org_id: str | None, method: str, path: str, **more: Any) -> Answer:
        self.asked += 1
        answer = ask(self.chance.choice(self.fleet.ports), method, path, org_id=org_id, **more)
        if answer.status >= 500:
            self.crossed.append(f"{method} {path}: {answer.status}")
        return answer

    def judge(self, org_id: str, answer: Answer, asked_for: str = "") -> None:
        """Every id in an answer is the caller's own, but for those it named itself."""
        text = answer.body.decode() + json.dumps(dict(answer.headers))
        others: set[str] = set().union(*(ids for org, ids in self.owned.items() if org != org_id))
        for found in set(ID.findall(text)) & others:
            if found not in asked_for:
                self.crossed.append(f"{org_id} was answered with {found} of another tenant: {text[:300]}")
        for other in set(self.owned) - {org_id}:
            if f'"{other}"' in text:
                self.crossed.append(f"{org_id} reads the name of {other}: {text[:300]}")

    def learn(self, org_id: str, value: Any) -> None:
        """Ids in an answer to its owner are the owner's."""
        ids = set(ID.findall(json.dumps(value)))
        self.owned[org_id] |= ids - set().union(*(self.owned[org] for org in TENANTS if org != org_id))

    def step(self) -> None:
        """One thing that one of the tenants does, with its own things or with others'."""
        org_id = self.chance.choice(TENANTS)
        verb = self.chance.choice(("submit", "list", "own", "foreign", "foreign", "foreign", "headers"))
        getattr(self, f"_{verb}")(org_id)

    def _submit(self, org_id: str) -> None:
        body = {
            "analysis": "selftest",
            "params": {"stages": 1, "stage_seconds": 0},
            "options": {"async_mode": {"requested": True}},
        }
        # The same keys for every tenant: a key belongs to its tenant.
        headers = {"Idempotency-Key": f"key-{self.chance.randint(1, 60)}"}
        answer = self.ask(org_id, "POST", "/analyze", body=body, headers=headers)
        self.judge(org_id, answer)
        if answer.status == 202:
            job_id = answer.json()["job"]["job_id"]
            self.learn(org_id, [job_id])
            self.jobs.append((org_id, job_id))

    def _list(self, org_id: str) -> None:
        path = self.chance.choice(
            ("/analyze/jobs", "/analyze/jobs?limit=200", "/analyze/jobs?status=completed", "/analyses")
        )
        answer = self.ask(org_id, "GET", path)
        self.judge(org_id, answer)
        cursor = answer.json().get("next_cursor")
        if cursor:
            stranger = self.chance.choice(TENANTS)
            self.judge(stranger, self.ask(stranger, "GET", f"/analyze/jobs?cursor={cursor}"))

    def _paths(self, job_id: str) -> list[str]:
        tails = ("", "/events", "/results", "/notifications", "/logs")
        return [f"/analyze/jobs/{job_id}{tail}" for tail in tails]

    def _own(self, _: str) -> None:
        if not self.jobs:
            return
        org_id, job_id = self.chance.choice(self.jobs)
        answer = self.ask(org_id, "GET", self.chance.choice(self._paths(job_id)))
        self.judge(org_id, answer)
        if answer.status != 200:
            self.crossed.append(f"{org_id} cannot read its own {job_id}: {answer.status}")
            return
        self.learn(org_id, answer.json().get("events", []) + answer.json().get("notifications", []))
        for one in answer.json().get("results", []):
            self.learn(org_id, [one["result_id"]])
            self.results.append((org_id, one["result_id"]))

    def _foreign(self, org_id: str) -> None:
        """Read or write what belongs to another tenant."""
        targets = [
            (path, method)
            for owner, job_id in self.jobs[-50:]
            if owner != org_id
            for path, method in [
                *((path, "GET") for path in self._paths(job_id)),
                (f"/analyze/jobs/{job_id}/cancel", "POST"),
                (f"/analyze/jobs/{job_id}/retry", "POST"),
                (f"/analyze/jobs/{job_id}/hold", "PUT"),
                (f"/analyze/jobs/{job_id}", "DELETE"),
            ]
        ]
        targets += [
            (f"/analyze/results/{result_id}", "GET")
            for owner, result_id in self.results[-50:]
            if owner != org_id
        ]
        if not targets:
            return
        path, method = self.chance.choice(targets)
        answer = self.ask(org_id, method, path, body={} if method == "POST" else None)
        if answer.status != 404:
            self.crossed.append(f"{org_id} got {answer.status} for {method} {path}")
        self.judge(org_id, answer, path)

    def _headers(self, org_id: str) -> None:
        """The ways to name two tenants, none, or one that only looks like another."""
        if not self.jobs:
            return
        owner, job_id = self.chance.choice(self.jobs)
        # Two that disagree, a list, what only looks like the owner, and nothing at all.
        sent: dict[str, str] = self.chance.choice(
            [
                {"X-Org-Id": STRANGER, "X-Tenant-Id": owner},
                {"X-Org-Id": f"{owner},{STRANGER}"},
                {"X-Org-Id": owner.upper()},
                {"X-Org-Id": f"{owner}."},
                {"X_Org_Id": owner},
                {"X-Org-Id": owner.replace("a", "%61")},
                {"X-Org-Id": ""},
                {"Forwarded-Org-Id": owner},
            ]
        )
        answer = self.ask(None, "GET", f"/analyze/jobs/{job_id}", headers=sent)
        if answer.status not in (400, 404):
            self.crossed.append(f"{sent} reads {job_id} of {owner}: {answer.status}")


def fuzz(fleet: Fleet, wanted: int, seed: int, score: Score) -> None:
    world = World(fleet, random.Random(seed))
    while world.asked < wanted:
        world.step()
    # What others tried has changed nothing: every job is there, completed, and held by nobody.
    for org_id in TENANTS:
        people = Population(fleet, org_id)
        for job in people.ended([job_id for owner, job_id in world.jobs if owner == org_id][-40:]):
            if job["status"] != "completed" or job["held"]:
                world.crossed.append(f"a stranger changed {job}")
    print("\n".join(world.crossed[:10]))
    score("R18", fleet.store, len(world.crossed), cases=world.asked, seed=seed)


@pytest.mark.slow
def test_two_thousand_requests_of_three_tenants_cross_nowhere(fleet: Fleet, seed: int, score: Score) -> None:
    fuzz(fleet, 2_000, seed, score)


@pytest.mark.long
def test_fifty_thousand_requests_of_three_tenants_cross_nowhere(
    fleet: Fleet, seed: int, score: Score
) -> None:
    fuzz(fleet, 50_000, seed, score)
