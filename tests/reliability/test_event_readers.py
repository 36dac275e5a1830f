"""R10: whoever follows a job's events over connections that break at random reads each once, in order.

Readers go on from the last number they have seen, as a page of events or after a long poll.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on
from tests.reliability.oracle import ENDS
from tests.reliability.population import Population
from tests.reliability.traffic import NoAnswerError, ask

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
STAGES = 1_000  # the most that a self-test does; each stage is an event
READERS_PER_JOB = 4


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with fleet_on(request.param, tmp_path, servers=2, workers=1, slots=4) as it:
        yield it


class EventReader:
    """Follows one job to its end. ``seen`` is what it was told, in the order in which it was told."""

    def __init__(self, fleet: Fleet, org_id: str, job_id: str, seed: str) -> None:
        self._fleet, self._org_id, self._job_id = fleet, org_id, job_id
        self._chance = random.Random(seed)
        self.seen: list[tuple[int, str]] = []
        self.breaks = 0

    def follow(self) -> EventReader:
        while not (self.seen and self.seen[-1][1] in ENDS):
            after = self.seen[-1][0] if self.seen else 0
            path = f"/analyze/jobs/{self._job_id}/events?after={after}&limit={self._chance.choice([7, 50, 1000])}"
            port = self._chance.choice(self._fleet.ports)
            if self._chance.random() < 0.1:
                self._break_off(port, path)
                continue
            found = ask(port, "GET", path, org_id=self._org_id).json()["events"]
            self.seen += [(event["event_seq"], event["event_type"]) for event in found]
            if not found:
                self._wait(port, after)
        return self

    def _break_off(self, port: int, path: str) -> None:
        """Ask, read some of the answer, hang up; nothing of it counts."""
        self.breaks += 1
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            head = f"GET {path} HTTP/1.1\r\nHost: it\r\nX-Org-Id: {self._org_id}\r\n\r\n"
            connection.sendall(head.encode())
            connection.recv(self._chance.randint(1, 4_000))

    def _wait(self, port: int, after: int) -> None:
        """A long poll for the next change after the last event."""
        headers = {"Prefer": "wait=2", "If-None-Match": f'W/"{after}"'}
        try:
            ask(port, "GET", f"/analyze/jobs/{self._job_id}", org_id=self._org_id, headers=headers)
        except NoAnswerError:
            self.breaks += 1


def wrong(seen: list[tuple[int, str]]) -> int:
    """How many numbers are missing, there twice, or not in their place."""
    numbers = [number for number, _ in seen]
    last = max(numbers, default=0)
    return sum(number != place for place, number in enumerate(numbers, 1)) + max(0, last - len(numbers))


def read_events(fleet: Fleet, wanted: int, seed: int, score: Score) -> None:
    people = Population(fleet, "readers")
    chance = random.Random(seed)
    seen, errors = 0, 0
    breaks = 0
    at_once = 3
    while seen < wanted:
        jobs = [people.submit("selftest", stages=STAGES, stage_seconds=0) for _ in range(at_once)]
        readers = [
            EventReader(fleet, people.org_id, job_id, f"{chance.random()}")
            for job_id in jobs
            for _ in range(READERS_PER_JOB)
        ]
        with ThreadPoolExecutor(len(readers)) as pool:
            followed = list(pool.map(EventReader.follow, readers))
        for reader in followed:
            seen += len(reader.seen)
            breaks += reader.breaks
            errors += wrong(reader.seen)
        for number in range(0, len(followed), READERS_PER_JOB):
            one, *others = followed[number : number + READERS_PER_JOB]
            errors += sum(other.seen != one.seen for other in others)
    print(f"{seen} events read, {breaks} connections broken off")
    score("R10", fleet.store, errors, cases=seen, seed=seed)
    assert breaks > 0


def test_a_reader_that_missed_repeated_or_mixed_up_events_is_noticed() -> None:
    whole = [(1, "job.queued"), (2, "job.running"), (3, "job.completed")]

    assert wrong(whole) == 0
    assert wrong(whole[:1] + whole[2:]) > 0
    assert wrong([whole[0], *whole]) > 0
    assert wrong([whole[1], whole[0], whole[2]]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_readers_that_reconnect_at_random_read_every_event_once_and_in_order(
    fleet: Fleet, seed: int, score: Score
) -> None:
    read_events(fleet, 20_000, seed, score)


@pytest.mark.long
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_a_million_events_are_read_once_and_in_order(fleet: Fleet, seed: int, score: Score) -> None:
    read_events(fleet, 1_000_000, seed, score)
