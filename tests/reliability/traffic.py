"""Clients of several tenants that do what clients do, and write down what they were told.

A submit is repeated with its Idempotency-Key, at any server, until it is answered or given up. Only the standard
library talks HTTP here.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from tests.reliability.journal import Journal, Outcome
from tests.reliability.oracle import TERMINAL
from tests.system.live import eventually

TENANTS = ("alpha", "beta", "gamma")
TIMEOUT_SECONDS = 20.0
RESULT_MARK = b',"result":'


class NoAnswerError(Exception):
    """Whether the request was carried out is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    method: str,
    path: str,
    *,
    org_id: str | None = None,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Answer:
    """One request on a connection of its own. Raises NoAnswerError."""
    sent = dict(headers or {})
    if org_id is not None:
        sent["X-Org-Id"] = org_id
    if body is not None:
        sent["Content-Type"] = "application/json"
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body).encode(), sent)
        got = connection.getresponse()
        return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
    except (OSError, HTTPException) as exc:
        raise NoAnswerError(f"{method} {path}: {exc!r}") from exc
    finally:
        connection.close()


def digest_of_result(body: bytes) -> str:
    """SHA-256 of the result's own bytes in a permalink's answer."""
    at = body.index(RESULT_MARK) + len(RESULT_MARK)
    return hashlib.sha256(body[at:-1]).hexdigest()


class Traffic:
    """Threads of clients, from a seed. What a client did not understand is in ``faults``.

    ports    the servers of the moment
    pace     seconds between the requests of one thread, on average
    mix      how often each verb is used, relative to the others
    """

    MIX: Mapping[str, int] = {"submit": 6, "look": 5, "cancel": 1, "retry": 1, "erase": 0, "result": 3}

    def __init__(
        self,
        journal: Journal,
        ports: Callable[[], Sequence[int]],
        seed: int,
        *,
        threads: int = 3,
        pace: float = 0.03,
        mix: Mapping[str, int] | None = None,
        params: Callable[[random.Random], dict[str, Any]] | None = None,
    ) -> None:
        self.journal, self._ports, self._pace = journal, ports, pace
        self._mix = {**self.MIX, **(mix or {})}
        self._params = params or some_params
        self.faults: list[str] = []
        self.jobs: list[tuple[str, str]] = []  # (org_id, job_id) of every acknowledged submit and retry
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed} client {n}"),), daemon=True)
            for n in range(threads)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def reaches(self, jobs: int) -> None:
        """Wait until so many jobs were acknowledged."""
        eventually(lambda: len(self.jobs) >= jobs or self.faults, f"not even {jobs} jobs were accepted")

    def _run(self, chance: random.Random) -> None:
        verbs, weights = list(self._mix), list(self._mix.values())
        while not self._stop.is_set():
            verb = chance.choices(verbs, weights)[0]
            try:
                if verb == "submit":
                    self.submit(chance)
                elif self.jobs:
                    getattr(self, verb)(chance, *chance.choice(self.jobs[-200:]))
            except NoAnswerError:
                time.sleep(0.02)  # down at the moment
            except Exception as exc:  # noqa: BLE001  a client that dies silently would prove nothing
                self.faults.append(f"{verb}: {exc!r}")
            self._stop.wait(chance.expovariate(1 / self._pace))

    def _ask(self, chance: random.Random, method: str, path: str, org_id: str, **more: Any) -> Answer:
        answer = ask(chance.choice(self._ports()), method, path, org_id=org_id, **more)
        if answer.status >= 500 and answer.status != 503:
            self.faults.append(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
        return answer

    # ------------------------------------------------------------ verbs
    def submit(self, chance: random.Random) -> None:
        """One job, sent again until it is answered."""
        org_id, params = chance.choice(TENANTS), self._params(chance)
        number = self.journal.sending("submit", org_id, params=params)
        body = {
            "analysis": "selftest",
            "params": params,
            "labels": {"op": str(number)},
            "options": {"async_mode": {"requested": True}},
        }
        headers = {"Idempotency-Key": f"operation-{number}"}
        for _ in range(chance.randint(1, 400)):
            try:
                answer = self._ask(chance, "POST", "/analyze", org_id, body=body, headers=headers)
            except NoAnswerError:
                time.sleep(0.02)
                continue
            # 409: the request before this one is still on its way.
            if answer.status not in (503, 409):
                self._submitted(number, org_id, answer)
                return
            if self._stop.is_set():
                return
            time.sleep(0.05)

    def _submitted(self, number: int, org_id: str, answer: Answer) -> None:
        if answer.status == 202:
            job_id = answer.json()["job"]["job_id"]
            self.journal.answered(number, Outcome.ACKNOWLEDGED, job_id=job_id)
            self.jobs.append((org_id, job_id))
        else:
            self.journal.answered(number, Outcome.REFUSED, status=answer.status)
            if answer.status != 429:
                self.faults.append(f"submit: {answer.status} {answer.body[:300]!r}")

    def look(self, chance: random.Random, org_id: str, job_id: str) -> None:
        """The status of a job, sometimes of one that belongs to somebody else."""
        stranger = chance.choice(TENANTS)
        answer = self._ask(chance, "GET", f"/analyze/jobs/{job_id}", stranger)
        if answer.status == 200 and stranger != org_id:
            self.journal.saw("saw_foreign", stranger, what=job_id)
        elif answer.status == 200:
            status = answer.json()["job"]["status"]
            if status in TERMINAL:
                self.journal.saw("saw_end", org_id, job_id=job_id, status=status)

    def result(self, chance: random.Random, org_id: str, job_id: str) -> None:
        """One of a job's results, by its permalink."""
        answer = self._ask(chance, "GET", f"/analyze/jobs/{job_id}/results", org_id)
        found = answer.json()["results"] if answer.status == 200 else []
        if not found:
            return
        result_id = chance.choice(found)["result_id"]
        got = self._ask(chance, "GET", f"/analyze/results/{result_id}?view=requested", org_id)
        if got.status == 200:
            self.journal.saw("saw_result", org_id, result_id=result_id, sha256=digest_of_result(got.body))
        elif got.status == 410:
            self.journal.saw("saw_expired", org_id, result_id=result_id)

    def cancel(self, chance: random.Random, org_id: str, job_id: str) -> None:
        number = self.journal.sending("cancel", org_id, job_id=job_id)
        answer = self._ask(chance, "POST", f"/analyze/jobs/{job_id}/cancel", org_id, body={})
        if answer.status in (200, 202):
            status = answer.json()["job"]["status"]
            self.journal.answered(number, Outcome.ACKNOWLEDGED, status=status)
            if status in TERMINAL:
                self.journal.saw("saw_end", org_id, job_id=job_id, status=status)

    def retry(self, chance: random.Random, org_id: str, job_id: str) -> None:
        number = self.journal.sending("retry", org_id, of=job_id)
        answer = self._ask(chance, "POST", f"/analyze/jobs/{job_id}/retry", org_id, body={})
        if answer.status == 202:
            again = answer.json()["job"]["job_id"]
            self.journal.answered(number, Outcome.ACKNOWLEDGED, job_id=again)
            self.jobs.append((org_id, again))

    def erase(self, chance: random.Random, org_id: str, job_id: str) -> None:
        number = self.journal.sending("erase", org_id, job_id=job_id)
        answer = self._ask(chance, "DELETE", f"/analyze/jobs/{job_id}", org_id)
        if answer.status in (204, 404):
            self.journal.answered(number, Outcome.ACKNOWLEDGED, status=answer.status)
        elif answer.status < 500:
            self.journal.answered(number, Outcome.REFUSED, status=answer.status)


def some_params(chance: random.Random) -> dict[str, Any]:
    """A short self-test of a random kind; one in eight fails, one in eight at its first attempt only."""
    return {
        "stages": chance.randint(0, 3),
        "stage_seconds": round(chance.uniform(0, 0.06), 3),
        "payload_bytes": chance.choice([0, 10, 3000]),
        "outcome": chance.choice(["complete"] * 6 + ["fail", "retry_then_complete"]),
    }


def drained(port: int, jobs: Sequence[tuple[str, str]], seconds: float = 120.0) -> None:
    """Wait until every one of ``jobs`` has ended or is gone; fails when one of them keeps the rest waiting.

    seconds   from the end of one to the end of the next: how many are left over depends on the machine
    """
    for org_id, job_id in jobs:
        until = time.monotonic() + seconds
        while True:
            answer = ask(port, "GET", f"/analyze/jobs/{job_id}", org_id=org_id)
            if answer.status == 404 or answer.json()["job"]["status"] in TERMINAL:
                break
            if time.monotonic() > until:
                raise AssertionError(f"job {job_id} has not ended: {answer.body[:500]!r}")
            time.sleep(0.05)
