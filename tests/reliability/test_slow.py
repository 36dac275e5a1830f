"""R28: slow, frozen and endless clients cost the server little memory, and others little time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Self

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on
from tests.reliability.hostile import message
from tests.reliability.misbehaviour_table import memory
from tests.reliability.population import Population, p99
from tests.reliability.slow import Dripping, Frozen, Large, body_of, head_of, latencies

MIB = 2**20
LARGE_BYTES = 8_000_000
ORG = "slow"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_on("sqlite", tmp_path_factory.mktemp("slow"), slots=2) as it:
        yield it


@pytest.fixture(scope="module")
def large(fleet: Fleet) -> bytes:
    """The request for a result of 8 MB."""
    people = Population(fleet, ORG)
    (job,) = people.ended([people.submit("selftest", stages=0, payload_bytes=LARGE_BYTES)])
    return message("GET", f"/analyze/results/{job['result_id']}".encode(), org=ORG)


class Victim:
    """A client that asks for the state of its job on one connection, as one that polls does."""

    def __init__(self, fleet: Fleet) -> None:
        people = Population(fleet, "victim")
        (job,) = people.ended([people.submit("selftest", stages=0)])
        self._path = f"/analyze/jobs/{job['job_id']}"
        self._connection = HTTPConnection("127.0.0.1", fleet.ports[0], timeout=30)

    def look(self) -> None:
        self._connection.request("GET", self._path, headers={"X-Org-Id": "victim"})
        answer = self._connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)

    def close(self) -> None:
        self._connection.close()


class Peak:
    """The most memory that the server takes while the block lasts; what it gives back at once is counted too."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.bytes = max(self.bytes, memory(self._fleet))


def siege(
    fleet: Fleet, large: bytes, readers: int, drips: int, bodies: int, seconds: float
) -> tuple[float, float]:
    """Growth of the server in MiB at its largest, and the victim's p99 meanwhile over its p99 without."""
    victim, port = Victim(fleet), fleet.ports[0]
    waits = message("GET", b"/analyze/jobs?limit=200", org=ORG)
    try:
        with Frozen(port, [large]):
            victim.look()
        quiet = latencies(victim.look, seconds)
        before = most = memory(fleet)
        heads = [head_of(ORG)] * (drips // 2)
        halves = [body_of(ORG)] * (drips // 2)
        kind, size = b"Content-Type: application/json", b"Content-Length: %d" % (100 * MIB)
        head = message("POST", b"/analyze", kind, size, org=ORG)
        frozen = [large] * readers + [waits] * (readers // 4)
        with Frozen(port, frozen), Dripping(port, heads), Dripping(port, halves, at_once=True):
            with Peak(fleet) as peak:
                refused = Large(port, bodies, 100 * MIB, head).run().statuses
            most = max(most, peak.bytes)
            busy = []
            for _ in range(5):
                busy += latencies(victim.look, seconds / 5)
                most = max(most, memory(fleet))
    finally:
        victim.close()
    print(f"answers to large bodies: {refused}, memory meanwhile {(peak.bytes - before) / MIB:.1f} MiB more")
    print(f"p99 {1000 * p99(quiet):.2f} -> {1000 * p99(busy):.2f} ms of {len(quiet)} and {len(busy)}")
    return (most - before) / MIB, p99(busy) / p99(quiet)


@pytest.mark.slow
def test_fifty_slow_clients_cost_little_memory(fleet: Fleet, large: bytes, score: Score) -> None:
    grown, slower = siege(fleet, large, readers=50, drips=100, bodies=4, seconds=2)

    print(f"{grown:.1f} MiB, {slower:.2f} x")
    score("R28.memory", "-", grown, cases=154)


@pytest.mark.long
def test_hundreds_of_slow_clients_cost_little_memory_and_others_little_time(
    fleet: Fleet, large: bytes, score: Score
) -> None:
    grown, slower = siege(fleet, large, readers=200, drips=1_000, bodies=20, seconds=20)

    print(f"{grown:.1f} MiB, {slower:.2f} x")
    score("R28.memory", "-", grown, cases=1_220)
    score("R28.others", "-", slower, cases=1_220)
