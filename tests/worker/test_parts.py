"""The parts that need no process: frames, captured output, the bell, endings."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_delivery.domain.analysis import AnalysisInfo, AnalysisLimits, InputMode, Isolation
from async_delivery.domain.failure import is_failure_code
from async_delivery.worker import processes
from async_delivery.worker.bell import Bell, Wake
from async_delivery.worker.ending import EndKind, of_error, of_exit
from async_delivery.worker.forkserver import ExitStatus
from async_delivery.worker.frames import (
    BrokenFrameError,
    FrameReader,
    FrameTooLargeError,
    Tag,
    join,
    pack,
    receive,
    split,
)
from async_delivery.worker.limits import WorkerSettings, progress_pause_seconds
from async_delivery.worker.output import OutputRing, clean


# ---------------------------------------------------------------- frames
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(payloads: list[bytes], step: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reader = FrameReader(ours, lambda tag: 1000)
        data = b"".join(pack(Tag.RESULT, payload) for payload in payloads)
        got = []
        for start in range(0, len(data), step):
            theirs.sendall(data[start : start + step])
            reader.read()
            got += [frame.payload for frame in reader.frames()]

    assert got == payloads
    assert reader.empty


@given(st.binary(max_size=200))
def test_any_bytes_are_either_frames_or_refused(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reader = FrameReader(ours, lambda tag: 50)
        theirs.sendall(data or b"\0")
        reader.read()
        try:
            for frame in reader.frames():
                assert len(frame.payload) <= 50
        except (BrokenFrameError, FrameTooLargeError):
            return


def test_a_frame_beyond_its_limit_is_refused_before_it_is_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reader = FrameReader(ours, lambda tag: 10)
        theirs.sendall(pack(Tag.RESULT, b"x" * 11)[:5])
        reader.read()

        with pytest.raises(FrameTooLargeError) as caught:
            list(reader.frames())

    assert (caught.value.tag, caught.value.size, caught.value.limit) == (Tag.RESULT, 11, 10)


def test_a_child_hears_the_end_of_its_parent_as_the_end_of_orders() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(pack(Tag.JOB, join({"a": 1}, b"body")) + pack(Tag.JOB, b"cut")[:6])
        ours.close()
        first, second = receive(theirs), receive(theirs)

    assert first is not None
    assert split(first.payload) == (b'{"a": 1}', b"body")
    assert second is None


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\0\0\0\5abc"])
def test_a_payload_that_is_shorter_than_it_says_is_refused(payload: bytes) -> None:
    with pytest.raises(BrokenFrameError):
        split(payload)


# ---------------------------------------------------------------- output
@given(st.binary(max_size=400))
def test_captured_output_is_printable_text_whatever_was_printed(data: bytes) -> None:
    text = clean(data)

    text.encode("utf-8")
    assert not any(ord(char) < 32 and char not in "\n\t" for char in text)
    assert "\x7f" not in text


def test_only_the_end_of_the_output_is_kept_and_the_rest_is_counted() -> None:
    read, write = os.pipe2(os.O_NONBLOCK)
    ring = OutputRing(read, keep_bytes=100)
    for number in range(50):
        os.write(write, f"line {number:04}\n".encode())
        ring.drain()

    text = ring.text()

    assert text is not None
    first, *rest = text.splitlines()
    assert first == "[400 bytes before this were dropped]"
    assert rest[-1] == "line 0049"
    assert len("\n".join(rest)) == 99
    ring.start()
    assert ring.text() is None
    os.close(write)
    ring.drain()
    assert ring.at_end
    os.close(read)


def test_output_without_end_is_read_no_faster_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from async_delivery.worker import output

    monkeypatch.setattr(output, "OUTPUT_BYTES_PER_SECOND", 1000)
    read, write = os.pipe2(os.O_NONBLOCK)
    ring = OutputRing(read, keep_bytes=100)
    os.write(write, b"x" * 5000)

    first = ring.read()
    os.write(write, b"y" * 5000)
    second = ring.read()

    assert first
    assert not second
    assert 0 < ring.pause_seconds() <= 1
    os.close(write)
    os.close(read)


# ---------------------------------------------------------------- bell
def test_a_ring_before_the_wait_ends_it_at_once() -> None:
    bell = Bell(poll_seconds=60)
    seen = bell.rings
    bell.ring()

    assert bell.wait(seen) is Wake.RING


def test_a_poll_is_made_by_one_waiter_only() -> None:
    bell = Bell(poll_seconds=0.05)
    woken: list[Wake] = []
    threads = [threading.Thread(target=lambda: woken.append(bell.wait(0))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert woken.count(Wake.POLL) == 1
    assert woken.count(Wake.TICK) == 4


def test_polls_come_early_by_chance_and_never_late() -> None:
    pauses = [Bell(poll_seconds=4.0, jitter=lambda at=at: at)._interval() for at in (0.0, 0.5, 1.0)]  # type: ignore[misc]

    assert pauses == [4.0, 3.5, 3.0]


def test_an_appointment_is_kept_to_the_moment() -> None:
    bell = Bell(poll_seconds=60)
    began = monotonic()
    threading.Thread(target=lambda: bell.expect(0.1)).start()

    while (woken := bell.wait(0)) is Wake.TICK:
        pass

    assert woken is Wake.POLL
    assert 0.1 <= monotonic() - began < 1.0


def test_a_closed_bell_ends_every_wait() -> None:
    bell = Bell(poll_seconds=60)
    woken: list[Wake] = []
    threads = [threading.Thread(target=lambda: woken.append(bell.wait(0))) for _ in range(3)]
    for thread in threads:
        thread.start()

    bell.close()
    for thread in threads:
        thread.join()

    assert woken == [Wake.CLOSED] * 3
    assert bell.wait(0) is Wake.CLOSED


# ---------------------------------------------------------------- endings
def info(memory_bytes: int | None) -> AnalysisInfo:
    limits = AnalysisLimits(60.0, memory_bytes, 1000, 3, 1.0, 60.0)
    return AnalysisInfo(
        "a", "1", "A", "", {}, limits, InputMode.NONE, Isolation.WARM, True, None, "module:function"
    )


@pytest.mark.parametrize(
    ("code", "max_rss_bytes", "limit", "expected"),
    [
        (-6, 95, 100, "out_of_memory"),  # a library that aborts when it gets no memory
        (-9, 95, 100, "out_of_memory"),  # the kernel was faster than the watchdog
        (-9, 50, 100, "worker_crashed"),
        (-11, 95, None, "worker_crashed"),
        (1, 95, 100, "worker_crashed"),
        (0, 95, 100, "exited_without_result"),
        (None, 0, 100, "worker_crashed"),
    ],
)
def test_the_end_of_a_child_is_told_from_its_exit_code_and_its_memory(
    code: int | None, max_rss_bytes: int, limit: int | None, expected: str
) -> None:
    ending = of_exit(ExitStatus(code, max_rss_bytes), info(limit))

    assert ending.reason is not None
    assert ending.reason.code == expected
    assert ending.again == ending.crashed == (expected == "worker_crashed")


def test_an_attempt_whose_machine_is_gone_has_not_failed() -> None:
    assert of_exit(ExitStatus(None, lost=True), info(100)).kind is EndKind.GONE


def test_an_attempt_ended_to_save_its_machines_memory_ran_out_of_it() -> None:
    ending = of_exit(ExitStatus(-9, starved=True), info(None))

    assert ending.reason is not None
    assert ending.reason.code == "out_of_memory"


@given(
    st.one_of(
        st.binary(max_size=100), st.from_regex(rb'\{"(code|message|again|retry_after_seconds)":[^}]*\}')
    )
)
def test_whatever_a_child_says_of_its_failure_becomes_a_proper_failure(payload: bytes) -> None:
    ending = of_error(payload, info(None))

    assert ending.reason is not None
    assert is_failure_code(ending.reason.code)
    assert ending.reason.message
    assert ending.retry_after_seconds is None or 0 <= ending.retry_after_seconds <= 86_400


def test_an_analysis_cannot_put_off_its_retry_for_ever() -> None:
    ending = of_error(b'{"code":"busy","message":"m","again":true,"retry_after_seconds":1e300}', info(None))

    assert ending.retry_after_seconds == 86_400


# ---------------------------------------------------------------- processes
@pytest.mark.parametrize("listed", [True, False])
def test_children_are_found_with_and_without_the_kernels_list(
    listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_CHILDREN_LISTED", listed)
    child = subprocess.Popen(["sleep", "600"])
    own, other = processes.Footprint(os.getpid()), processes.Footprint(child.pid)
    try:
        seen = own.look()

        assert child.pid in processes.children(os.getpid())
        assert child.pid in processes.descendants(os.getpid())
        assert seen.has_children
        assert seen.rss_bytes > 2**20
        assert seen.threads == len(os.listdir("/proc/self/task"))
        assert other.look().rss_bytes > 0
        assert (other.look().threads, other.look().has_children) == (1, False)
        assert processes.tree_rss_bytes(os.getpid()) > processes.rss_bytes(os.getpid())
    finally:
        child.kill()
        child.wait()
    # This process may have others, such as the database of other tests.
    assert child.pid not in processes.children(os.getpid())
    assert own.look().has_children == bool(processes.children(os.getpid()))
    assert other.look() == processes.Footprint(child.pid).look() == (0, 0, False)
    assert other.limits() == processes.Footprint(child.pid).limits() == b""
    own.close()
    other.close()
    other.close()
    assert processes.rss_bytes(child.pid) == 0
    assert processes.children(child.pid) == []


# ---------------------------------------------------------------- limits
def test_days_of_progress_are_fewer_than_a_thousand_events() -> None:
    at, events = 0.0, 0
    while at < 86_400:
        at += progress_pause_seconds(0.5, at)
        events += 1

    assert events < 1000


def test_a_worker_without_slots_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="slots"):
        WorkerSettings(slots=0, work_root=tmp_path)
