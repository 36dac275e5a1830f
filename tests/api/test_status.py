"""GET /analyze/jobs/{id}: what a job is, told again only when it has changed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from async_delivery.api import status as module
from async_delivery.domain.failure import failure
from async_delivery.engine import jobs, runs
from async_delivery.engine.retention import cleanup_retention
from async_delivery.engine.runs import Report
from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.api.support import Web, come_true, complete, finished, started
from tests.engine.support import ALPHA, claimed, completed, published, submitted

JOB_MEMBERS = {
    *(
        "job_id",
        "correlation_id",
        "analysis",
        "status",
        "progress_percent",
        "stage",
        "message",
        "partial_count",
    ),
    *(
        "error_count",
        "attempt",
        "result_id",
        "error_code",
        "error_message",
        "retryable",
        "retry_hint",
        "queued_at",
    ),
    *("started_at", "finished_at", "updated_at", "cancel_requested_at", "canceled_at", "canceled_by"),
    *("cancel_reason", "retry_of", "labels", "eta_seconds", "links", "events"),
}
EVENT_MEMBERS = {"event_id", "event_seq", "event_type", "occurred_at", "actor_type", "payload_json"}


def url(job: Any) -> str:
    return f"/analyze/jobs/{job.job_id}"


def test_a_status_has_everything_that_was_promised(rt: Runtime, web: Web) -> None:
    job = finished(rt)

    answer = web.get(url(job))

    content = answer.json()
    assert answer.status_code == 200
    assert set(content) == {"ok", "correlation_id", "job", "request_id"}
    assert set(content["job"]) >= JOB_MEMBERS
    assert [event["event_type"] for event in content["job"]["events"]] == [
        "job.queued",
        "job.running",
        "job.partial",
        "job.completed",
    ]
    assert all(set(event) == EVENT_MEMBERS for event in content["job"]["events"])
    assert [event["event_seq"] for event in content["job"]["events"]] == [1, 2, 3, 4]
    assert (content["job"]["status"], content["job"]["result_id"]) == ("completed", job.result_id)
    assert content["job"]["started_at"].endswith("Z")
    assert content["request_id"] == answer.headers["x-request-id"]
    assert web.get(content["job"]["links"]["result"]).json()["result"] == {"whole": 2}


def test_a_failed_job_is_a_good_answer_that_says_why(rt: Runtime, web: Web) -> None:
    run = started(rt)
    assert run.job.fence is not None
    reason = failure("timeout", "Too slow.", retryable=True)
    runs.fail(rt, ALPHA, run.job.job_id, run.job.fence, reason, again=False)

    answer = web.get(url(run.job))

    job = answer.json()["job"]
    assert (answer.status_code, answer.json()["ok"]) == (200, True)
    assert (job["status"], job["error_code"], job["error_message"]) == ("failed", "timeout", "Too slow.")
    assert (job["retryable"], job["retry_hint"]) == (True, "retry_with_backoff")
    assert job["links"]["retry"] == f"{url(run.job)}/retry"


def test_only_what_goes_on_says_when_to_ask_again(rt: Runtime, web: Web) -> None:
    queued = submitted(rt)

    assert int(web.get(url(queued)).headers["retry-after"]) >= 1

    complete(rt, queued.job_id)
    assert "retry-after" not in web.get(url(queued)).headers


def test_the_time_to_ask_again_comes_from_how_long_such_jobs_took(
    rt: Runtime, web: Web, clock: FakeClock
) -> None:
    for _ in range(3):
        submitted(rt)
        run = claimed(rt)
        clock.advance(seconds=40)
        completed(rt, run)
    run = started(rt)

    answer = web.get(url(run.job))

    assert (answer.json()["job"]["eta_seconds"], answer.headers["retry-after"]) == (40.0, "20")


# ---------------------------------------------------------------- tags
def test_a_status_that_has_not_changed_is_not_sent_again(rt: Runtime, web: Web) -> None:
    run = started(rt)
    first = web.get(url(run.job))
    tag = first.headers["etag"]

    same = web.get(url(run.job), headers={"If-None-Match": tag})
    listed = web.get(url(run.job), headers={"If-None-Match": f'"0", {tag}'})
    strong = web.get(url(run.job), headers={"If-None-Match": tag.removeprefix("W/")})
    anything = web.get(url(run.job), headers={"If-None-Match": "*"})
    other = web.get(url(run.job), headers={"If-None-Match": 'W/"99"'})

    assert tag == f'W/"{run.job.event_seq}"'
    for answer in (same, listed, strong, anything):
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        assert "retry-after" in answer.headers
    assert other.status_code == 200


def test_every_change_changes_the_tag(rt: Runtime, web: Web) -> None:
    job = submitted(rt)
    tags = [web.get(url(job)).headers["etag"]]
    run = claimed(rt)
    assert run.job.fence is not None
    tags.append(web.get(url(job)).headers["etag"])
    runs.progress(rt, ALPHA, job.job_id, run.job.fence, Report(10.0, "load"))
    tags.append(web.get(url(job)).headers["etag"])
    published(rt, run, {})
    tags.append(web.get(url(job)).headers["etag"])
    completed(rt, run)
    tags.append(web.get(url(job)).headers["etag"])

    assert len(set(tags)) == 5


# ---------------------------------------------------------------- what is remembered is still true
def test_an_answer_is_never_older_than_the_job(rt: Runtime, web: Web, clock: FakeClock) -> None:
    job = submitted(rt, labels={"a": "b"})
    assert web.get(url(job)).json()["job"]["held"] is False
    web("PUT", f"{url(job)}/hold")
    assert web.get(url(job)).json()["job"]["held"] is True
    run = claimed(rt)
    assert web.get(url(job)).json()["job"]["status"] == "running"
    clock.advance(seconds=1)
    assert run.job.fence is not None
    runs.progress(rt, ALPHA, job.job_id, run.job.fence, Report(50.0, "half", "way"))

    shown = web.get(url(job)).json()["job"]

    assert (shown["progress_percent"], shown["stage"], shown["message"]) == (50.0, "half", "way")
    assert shown["eta_seconds"] == 1.0
    clock.advance(seconds=1)
    assert web.get(url(job)).json()["job"]["eta_seconds"] == 2.0


def test_an_answer_shows_no_event_that_cleanup_took_away(rt: Runtime, web: Web, clock: FakeClock) -> None:
    job = finished(rt)
    assert len(web.get(url(job)).json()["job"]["events"]) == 4

    clock.advance(seconds=10)
    cleanup_retention(rt.store, results_ttl_seconds=0, events_ttl_seconds=0, now=clock.now())

    assert web.get(url(job)).json()["job"]["events"] == []


@pytest.mark.parametrize("limit", [1_000, 4])
def test_a_status_that_grew_by_what_is_new_is_the_one_that_was_read_whole(
    rt: Runtime, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", limit)
    own = {"X-Request-Id": "r-1"}
    run = started(rt)
    with Web(rt) as watching:

        def grown_and_whole() -> tuple[bytes, bytes]:
            with Web(rt) as new:
                return watching.get(url(run.job), headers=own).content, new.get(
                    url(run.job), headers=own
                ).content

        for part in range(6):
            published(rt, run, {"part": part})
            grown, whole = grown_and_whole()
            assert grown == whole
        completed(rt, run)
        grown, whole = grown_and_whole()
        assert grown == whole
        assert (b"more_events" in whole) == (limit == 4)
        clock.advance(seconds=10)
        cleanup_retention(rt.store, results_ttl_seconds=0, events_ttl_seconds=0, now=clock.now())
        grown, whole = grown_and_whole()
        assert grown == whole
        assert b'"events":[]' in whole


def test_equal_jobs_of_two_requests_differ_in_the_request_only(rt: Runtime, web: Web) -> None:
    job = finished(rt)

    first, second = (web.get(url(job), headers={"X-Request-Id": name}) for name in ('a"b\\c', "two"))

    assert (first.json()["request_id"], second.json()["request_id"]) == ('a"b\\c', "two")
    assert first.json()["job"] == second.json()["job"]


def test_a_long_history_is_cut_and_says_where_the_rest_is(
    rt: Runtime, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 3)
    job = finished(rt)

    content = web.get(url(job)).json()["job"]

    assert [event["event_seq"] for event in content["events"]] == [1, 2, 3]
    rest = web.get(content["links"]["more_events"]).json()["events"]
    assert [event["event_seq"] for event in rest] == [4]


# ---------------------------------------------------------------- long-polling
def wait_header(seconds: int, tag: str | None = None) -> dict[str, str]:
    return {"Prefer": f"wait={seconds}"} | ({"If-None-Match": tag} if tag else {})


async def change_while_waiting(web: Web, ask: Any, path: str, headers: dict[str, str], change: Any) -> Any:
    """Ask with ``headers``, and make ``change`` once the answer is being held."""
    waiting = asyncio.ensure_future(ask("GET", path, headers=headers))
    await come_true(lambda: web.app.held_answers() or waiting.done())
    assert not waiting.done(), "the answer was not held"
    await asyncio.to_thread(change)
    return await asyncio.wait_for(waiting, 30)


@pytest.mark.parametrize("tagged", [True, False])
def test_a_long_poll_answers_at_the_first_change(rt: Runtime, web: Web, tagged: bool) -> None:
    run = started(rt)
    tag = web.get(url(run.job)).headers["etag"] if tagged else None

    answer = web.run(
        lambda ask: change_while_waiting(
            web, ask, url(run.job), wait_header(50, tag), lambda: published(rt, run, {"n": 1})
        )
    )

    assert (answer.status_code, answer.json()["job"]["status"]) == (200, "partial")
    assert answer.headers["preference-applied"] == "wait=50"


def test_a_long_poll_without_a_change_ends_with_304(rt: Runtime, web: Web) -> None:
    run = started(rt)
    tag = web.get(url(run.job)).headers["etag"]
    began = time.monotonic()

    answer = web.get(url(run.job), headers=wait_header(1, tag))

    assert (answer.status_code, answer.headers["preference-applied"]) == (304, "wait=1")
    assert time.monotonic() - began >= 0.95


def test_a_long_poll_by_a_client_that_knows_nothing_ends_with_the_job(rt: Runtime, web: Web) -> None:
    run = started(rt)

    assert web.get(url(run.job), headers=wait_header(1)).json()["job"]["status"] == "running"


def test_a_long_poll_with_an_old_tag_is_answered_at_once(rt: Runtime, web: Web) -> None:
    run = started(rt)
    began = time.monotonic()

    answer = web.get(url(run.job), headers=wait_header(50, 'W/"1"'))

    assert answer.status_code == 200
    assert time.monotonic() - began < 25


@pytest.mark.parametrize(("tag", "status"), [(None, 200), ('W/"4"', 304)])
def test_a_long_poll_of_an_ended_job_is_answered_at_once(
    rt: Runtime, web: Web, tag: str | None, status: int
) -> None:
    job = finished(rt)
    began = time.monotonic()

    assert web.get(url(job), headers=wait_header(50, tag)).status_code == status
    assert time.monotonic() - began < 25


def test_a_change_that_no_signal_tells_of_is_found_as_well(rt: Runtime, web: Web) -> None:
    web.app.close()  # hears nothing from the store any more
    run = started(rt)

    answer = web.run(
        lambda ask: change_while_waiting(web, ask, url(run.job), wait_header(50), lambda: completed(rt, run))
    )

    assert answer.json()["job"]["status"] == "completed"


def test_a_tenant_has_only_so_many_places_to_wait_in(rt: Runtime) -> None:
    run = started(rt)
    with Web(rt, max_waits_per_tenant=2) as web:

        async def talk(ask: Any) -> Any:
            held = [
                asyncio.ensure_future(ask("GET", url(run.job), headers=wait_header(50))) for _ in range(2)
            ]
            await come_true(lambda: web.app.held_answers() == 2)
            refused = await ask("GET", url(run.job), headers=wait_header(50))
            at_once = await ask("GET", url(run.job))
            await asyncio.to_thread(completed, rt, run)
            return refused, at_once, await asyncio.gather(*held)

        refused, at_once, held = web.run(talk)

    assert (refused.status_code, refused.json()["details"][0]["field"]) == (429, "quota.waits")
    assert at_once.status_code == 200
    assert [one.status_code for one in held] == [200, 200]
    assert web.app.held_answers() == 0


def test_many_may_wait_for_one_job(rt: Runtime, web: Web) -> None:
    run = started(rt)

    async def talk(ask: Any) -> Any:
        held = [asyncio.ensure_future(ask("GET", url(run.job), headers=wait_header(50))) for _ in range(30)]
        await come_true(lambda: web.app.held_answers() == 30)
        await asyncio.to_thread(completed, rt, run)
        return await asyncio.gather(*held)

    assert {answer.json()["job"]["status"] for answer in web.run(talk)} == {"completed"}
    assert jobs.find(rt, ALPHA, run.job.job_id).status == "completed"
