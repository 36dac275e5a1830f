from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from async_delivery import telemetry
from async_delivery.ops.logs import Log
from async_delivery.ops.sink import Sink
from tests.ops.logbook import ANSWERED, DEADLINE_SECONDS, Page, eventually


@contextmanager
def pipe_log(capacity: int = 100) -> Iterator[tuple[int, int, Log]]:
    """A log that writes into a pipe; both of its ends."""
    reader, writer = os.pipe()
    log = Log(Sink(writer), "info", "json", capacity=capacity)
    try:
        yield reader, writer, log
    finally:
        log.close()
        os.close(writer)


def drained(reader: int, until: Callable[[bytes], bool]) -> bytes:
    """What comes out of the pipe until it is enough."""
    data = b""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not until(data):
        assert time.monotonic() < deadline, data[-300:]
        if select.select([reader], [], [], 0.05)[0]:
            data += os.read(reader, 1 << 16)
    return data


def test_a_pipe_that_nobody_reads_blocks_nobody_and_the_loss_is_counted_and_told() -> None:
    told: list[int] = []
    detach = telemetry.attach(
        lambda name, values: told.append(values["count"]) if name == "log.behind" else None
    )
    with pipe_log(capacity=100) as (reader, _, log):
        sent = 0
        began = time.monotonic()
        until = began + DEADLINE_SECONDS
        while log.dropped < 50 and time.monotonic() < until:
            log.hear("http.answered", {**ANSWERED, "request_id": f"r-{sent}"})
            sent += 1
        dropped = log.dropped

        data = drained(reader, lambda data: b"log.behind" in data and data.endswith(b"\n"))
        log.hear("http.answered", {**ANSWERED, "request_id": "after"})
        data += drained(reader, lambda data: b'"after"' in data and data.endswith(b"\n"))

        records = [json.loads(line) for line in data.splitlines()]
        ids = [one["request_id"] for one in records if one["event"] == "http.answered"]
        behind = [one for one in records if one["event"] == "log.behind"]
        assert dropped >= 50
        assert len(ids) == sent - log.dropped + 1
        assert ids[:-1] == sorted(ids[:-1], key=lambda name: int(name[2:]))
        assert sum(one["count"] for one in behind) == log.dropped == sum(told)
        assert behind[0]["level"] == "warning"
        os.close(reader)
    detach()


def test_a_reader_that_has_gone_breaks_nothing_and_lines_to_nobody_are_counted() -> None:
    with pipe_log() as (reader, _, log):
        os.close(reader)

        log.hear("http.answered", ANSWERED)
        eventually(lambda: log.dropped == 1, "the loss is not counted")
        log.hear("http.answered", ANSWERED)
        eventually(lambda: log.dropped >= 2, "the log has given up")


def test_a_pipe_made_non_blocking_by_somebody_else_loses_nothing() -> None:
    with pipe_log(capacity=5_000) as (reader, writer, log):
        os.set_blocking(writer, False)
        for number in range(3_000):
            log.hear("http.answered", {**ANSWERED, "request_id": f"r-{number}"})

        data = drained(reader, lambda data: b'"r-2999"' in data and data.endswith(b"\n"))

        assert [json.loads(line)["request_id"] for line in data.splitlines()] == [
            f"r-{n}" for n in range(3_000)
        ]
        assert log.dropped == 0
        os.close(reader)


def test_a_full_disk_costs_the_lines_of_that_time_and_no_others() -> None:
    if not Path("/dev/full").exists():
        pytest.fail("this machine has no /dev/full")
    full = os.open("/dev/full", os.O_WRONLY)
    spare = os.dup(full)
    log = Log(Sink(spare), "info", "json")
    log.hear("http.answered", ANSWERED)
    eventually(lambda: log.dropped == 1, "the loss is not counted")

    reader, writer = os.pipe()
    os.dup2(writer, spare)
    log.hear("http.answered", {**ANSWERED, "request_id": "after"})
    data = drained(reader, lambda data: b"log.behind" in data and data.endswith(b"\n"))
    log.close()

    # What was cut off by the fault may stand before it: a new line comes first.
    assert [json.loads(line)["event"] for line in data.split()] == ["http.answered", "log.behind"]
    for number in (full, spare, reader, writer):
        os.close(number)


def test_lines_lost_to_a_disk_that_stays_full_are_counted_while_it_is_full() -> None:
    told: list[int] = []
    detach = telemetry.attach(
        lambda name, values: told.append(values["count"]) if name == "log.behind" else None
    )
    with open("/dev/full", "wb", buffering=0) as full:
        log = Log(Sink(full.fileno()), "info", "json")
        log.hear("http.answered", ANSWERED)
        eventually(lambda: told == [1], "the metric hears nothing")
        assert log.close()
    detach()


def test_a_trouble_is_written_without_waiting_for_more() -> None:
    with pipe_log() as (reader, _, log):
        for level in ("write.refused", "chore.failed"):
            log.hear(level, {"job_id": "j", "attempt": 1, "chore": "c", "error": "e", "seconds": 1})
            drained(reader, lambda data, level=level: level.encode() in data)  # type: ignore[misc]
        os.close(reader)


def test_what_was_told_before_the_end_is_written_at_the_end(page: Page) -> None:
    with page.log() as log:
        for number in range(2_000):
            log.hear("http.answered", {**ANSWERED, "request_id": f"r-{number}"})

    assert [record["request_id"] for record in page.records()] == [f"r-{number}" for number in range(2_000)]


def test_many_threads_tell_at_once_and_every_line_is_whole(page: Page) -> None:
    def tell(who: int) -> None:
        for number in range(300):
            telemetry.emit("http.answered", **{**ANSWERED, "request_id": f"{who}-{number}"})

    with page.log():
        threads = [threading.Thread(target=tell, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ids = [record["request_id"] for record in page.records()]
    assert sorted(ids) == sorted(f"{who}-{number}" for who in range(8) for number in range(300))


def test_a_log_that_nobody_empties_ends_all_the_same() -> None:
    reader, writer = os.pipe()
    log = Log(Sink(writer), "info", "json", capacity=100_000)
    for _ in range(2_000):
        log.hear("http.answered", ANSWERED)

    began = time.monotonic()
    closed = log.close(0.3)

    assert not closed
    assert time.monotonic() - began < DEADLINE_SECONDS
    os.close(reader)  # lets the thread out of its write
    eventually(lambda: log.close(1.0), "the thread has not ended")
    os.close(writer)
