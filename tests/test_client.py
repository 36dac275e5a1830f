"""The client that other programs may use, against a live server."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from async_delivery.analyses.data import PENGUINS
from async_delivery.client import (
    ApiError,
    Client,
    ClientError,
    ConnectionFailed,
    Job,
    NotFound,
    ResultExpired,
    Unavailable,
    WaitTimeout,
)
from async_delivery.domain.job import JobStatus
from tests.system.live import LiveServer, eventually

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("server"), "--slots", "2").start()
    yield live
    assert live.stop() == 0


@pytest.fixture
def client(server: LiveServer) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{server.port}", org_id=f"client-{next(_numbers)}") as made:
        yield made


def selftest(**params: object) -> dict[str, object]:
    return {"analysis": "selftest", "params": {"stages": 1, "stage_seconds": 0, **params}}


def test_a_job_goes_from_submit_to_its_result(client: Client) -> None:
    submitted = client.submit(selftest(stages=2))
    seen: list[Job] = []

    job = client.wait(submitted.job.job_id, changed=seen.append)

    assert submitted.replayed is False
    assert (job.status, job.progress_percent, job.partial_count) == (JobStatus.COMPLETED, 100.0, 2)
    assert seen[-1] == job
    assert [each.progress_percent for each in seen] == sorted(each.progress_percent for each in seen)
    assert job.result_id
    result = client.result(job.result_id)
    assert (result.is_final, result.job_id) == (True, job.job_id)
    assert [each["result_kind"] for each in client.results(job.job_id)] == ["partial", "partial", "final"]
    assert [each["template_key"] for each in client.notifications(job.job_id)] == ["async.job.completed"]


def test_events_come_in_order_and_from_where_they_are_asked(client: Client) -> None:
    job = client.wait(client.submit(selftest(stages=3)).job.job_id)

    events = list(client.events(job.job_id))

    assert [event.event_seq for event in events] == list(range(1, len(events) + 1))
    assert list(client.events(job.job_id, after=2)) == events[2:]


def test_an_upload_tells_how_far_it_is(client: Client) -> None:
    told: list[int] = []

    submitted = client.submit_file({"analysis": "profile"}, PENGUINS, sent=told.append)

    assert told[-1] == PENGUINS.stat().st_size
    assert client.wait(submitted.job.job_id).status is JobStatus.COMPLETED
    assert submitted.job.job_id == client.jobs().jobs[0].job_id


def test_a_large_upload_is_not_held_in_memory(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    with file.open("wb") as out:
        out.write(b"a,b\n")
        for _ in range(200):
            out.write(b"1,2\n" * 262_144)
    program = (
        "import resource, sys; from pathlib import Path; from async_delivery.client import Client\n"
        "client = Client(sys.argv[1], org_id='large', timeout_seconds=120)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "job = client.submit_file({'analysis': 'profile'}, Path(sys.argv[2])).job\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        "client.cancel(job.job_id)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, f"http://127.0.0.1:{server.port}", str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < file.stat().st_size / 8


def test_the_same_key_leads_to_the_same_job(client: Client) -> None:
    first = client.submit(selftest(), idempotency_key="one")
    again = client.submit(selftest(), idempotency_key="one")

    assert (again.job.job_id, again.replayed) == (first.job.job_id, True)
    with pytest.raises(ApiError) as refused:
        client.submit(selftest(stages=2), idempotency_key="one")
    assert (refused.value.code, refused.value.status) == ("idempotency_key_reused", 422)


def test_a_refusal_carries_its_code_and_every_fault(client: Client) -> None:
    with pytest.raises(ApiError) as refused:
        client.submit(selftest(stages=-1, nix=1))

    error = refused.value
    assert (error.code, error.status) == ("bad_request", 400)
    assert len(error.details) == 2
    assert error.request_id
    assert all(issue in str(error) for _, issue in error.details)


def test_what_is_not_there_and_what_is_anothers_is_not_found(client: Client, server: LiveServer) -> None:
    job_id = client.submit(selftest()).job.job_id

    with Client(client.base_url, org_id="a-stranger") as stranger, pytest.raises(NotFound):
        stranger.job(job_id)
    with pytest.raises(NotFound):
        client.job("no/such job?")
    with pytest.raises(NotFound):
        client.result("../jobs")


def test_an_expired_result_says_since_when(client: Client) -> None:
    job = client.wait(client.submit({**selftest(), "options": {"results_ttl_seconds": 0}}).job.job_id)
    assert job.result_id

    with pytest.raises(ResultExpired) as gone:
        client.result(job.result_id)

    assert gone.value.status == 410
    assert gone.value.expired_at is not None


def test_cancel_retry_and_erase(client: Client) -> None:
    job_id = client.submit(selftest(stages=600, stage_seconds=0.1)).job.job_id

    client.cancel(job_id, reason="enough")
    canceled = client.wait(job_id)
    again = client.retry(job_id).job

    assert canceled.status is JobStatus.CANCELED
    assert canceled.raw["cancel_reason"] == "enough"
    assert again.raw["retry_of"] == job_id
    client.cancel(again.job_id)
    client.wait(again.job_id)
    client.erase(job_id)
    with pytest.raises(NotFound):
        client.job(job_id)


def test_pages_of_jobs_lead_to_older_ones(client: Client) -> None:
    ids = [client.submit({**selftest(), "labels": {"n": str(n)}}).job.job_id for n in range(5)]

    first = client.jobs(limit=2)
    second = client.jobs(limit=2, cursor=first.next_cursor)
    third = client.jobs(limit=2, cursor=second.next_cursor)

    assert [job.job_id for page in (first, second, third) for job in page.jobs] == sorted(ids, reverse=True)
    assert third.next_cursor is None
    assert [job.job_id for job in client.jobs(labels={"n": "3"}).jobs] == [ids[3]]


def test_patience_can_end_before_the_job(client: Client) -> None:
    job_id = client.submit(selftest(stages=600, stage_seconds=0.1)).job.job_id

    with pytest.raises(WaitTimeout) as ended:
        client.wait(job_id, timeout_seconds=0.3)

    assert ended.value.job.job_id == job_id
    client.cancel(job_id)


def test_a_wait_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, "--slots", "1").start()
    ended: list[Job] = []
    try:
        with Client(f"http://127.0.0.1:{server.port}") as client:
            job_id = client.submit(selftest(stages=30, stage_seconds=0.1)).job.job_id
            seen = threading.Event()

            def follow() -> None:
                ended.append(client.wait(job_id, changed=lambda _job: seen.set()))

            waiting = threading.Thread(target=follow)
            waiting.start()
            assert seen.wait(60)
            server.kill_everything()
            server.start()
            waiting.join(60)
    finally:
        server.stop()

    assert [job.status for job in ended] == [JobStatus.COMPLETED]


def test_a_draining_server_refuses_with_when_to_come_again(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, "--slots", "1", "--drain-grace-seconds", "30").start()
    try:
        with Client(f"http://127.0.0.1:{server.port}") as client:
            job_id = client.submit(selftest(stages=30, stage_seconds=0.1)).job.job_id
            eventually(lambda: client.job(job_id).status is JobStatus.PARTIAL, "it runs")
            assert server.process
            server.process.terminate()

            def refusal() -> Unavailable | None:
                try:
                    client.submit(selftest())
                except Unavailable as exc:
                    return exc
                return None

            assert eventually(refusal, "it is not refused").retry_after_seconds > 0
    finally:
        server.stop()


def test_nobody_there_is_a_connection_that_failed() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(ConnectionFailed, match="no server answers"):
        client.health()


def test_a_server_that_says_nothing_is_a_connection_that_failed() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout_seconds=0.2) as client, pytest.raises(ConnectionFailed, match="in time"):
            client.health()


class Canned:
    """A program that is no Async Delivery server: answers each request with the next of its texts, then closes."""

    def __init__(self, *answers: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._answers = answers
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Canned:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        self._listener.close()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection:
                self.requests.append(connection.recv(65_536))
                connection.sendall(answer)


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
        status.encode(),
        len(body),
        body,
    )


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"ok": true}', b'{"job": {"job_id": 1}}', b'{"job": 7}']
)
def test_an_answer_of_another_program_is_a_client_error(body: bytes) -> None:
    with Canned(answer(body)) as other, Client(other.url) as client, pytest.raises(ClientError):
        client.job("x")


@pytest.mark.parametrize(
    "body", [b"Bad gateway", b'{"code": 3}', b'{"code": "x", "message": "y", "details": 1}']
)
def test_a_refusal_of_another_program_is_one_too(body: bytes) -> None:
    with (
        Canned(answer(body, "502 Bad Gateway")) as other,
        Client(other.url) as client,
        pytest.raises(ApiError) as refused,
    ):
        client.job("x")

    assert (refused.value.code, refused.value.status) == ("unexpected_answer", 502)


def test_a_read_is_repeated_when_its_connection_breaks() -> None:
    with Canned(b"", answer(b'{"ok": true}')) as other, Client(other.url) as client:
        assert client.health() == {"ok": True}

    assert len(other.requests) == 2


def test_a_submission_is_never_sent_twice() -> None:
    with Canned(b"") as other, Client(other.url) as client, pytest.raises(ConnectionFailed):
        client.submit({})

    assert len(other.requests) == 1


def test_a_proxy_of_the_environment_is_not_asked_for_ones_own_machine(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    with Client(client.base_url) as direct:
        assert direct.health()["ok"] is True
