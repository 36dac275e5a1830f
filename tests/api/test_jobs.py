"""Lists, events, logs, cancel, retry, hold, erase, notifications, the catalogue, health."""

from __future__ import annotations

from typing import Any

import pytest

from async_delivery.domain.failure import failure
from async_delivery.domain.job import Job
from async_delivery.engine import runs
from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.api.support import Web, complete, finished, started, stored_jobs
from tests.engine.support import ALPHA, BETA, submitted


def url(job: Job, tail: str = "") -> str:
    return f"/analyze/jobs/{job.job_id}{tail}"


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["job_id"] for job in answer.json()["jobs"]]


def failed(rt: Runtime) -> Job:
    run = started(rt)
    assert run.job.fence is not None
    return runs.fail(rt, ALPHA, run.job.job_id, run.job.fence, failure("analysis_error", "no"), again=False)


# ---------------------------------------------------------------- the list
def test_the_list_is_newest_first_and_the_tenants_own(rt: Runtime, web: Web) -> None:
    mine = [submitted(rt).job_id for _ in range(3)]
    submitted(rt, BETA)

    answer = web.get("/analyze/jobs")

    assert ids(answer) == sorted(mine, reverse=True)
    assert answer.json()["next_cursor"] is None
    assert "events" not in answer.json()["jobs"][0]


def test_pages_follow_each_other_without_gap_or_repeat(rt: Runtime, web: Web) -> None:
    jobs = [submitted(rt, labels={"parity": str(n % 2)}).job_id for n in range(7)]
    seen: list[str] = []
    cursor: str | None = ""
    pages = 0
    while cursor is not None:
        answer = web.get("/analyze/jobs", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))
        seen += ids(answer)
        submitted(rt)  # what comes meanwhile is newer than every page
        cursor, pages = answer.json()["next_cursor"], pages + 1

    # Ids rise with time; within one millisecond their order is theirs alone.
    assert seen == sorted(jobs, reverse=True)
    assert pages == 3


def test_a_page_that_is_exactly_full_is_the_last(rt: Runtime, web: Web) -> None:
    for _ in range(3):
        submitted(rt)

    assert web.get("/analyze/jobs?limit=3").json()["next_cursor"] is None


def test_a_cursor_works_for_its_tenant_and_filters_only(rt: Runtime, web: Web) -> None:
    for org_id in (ALPHA, BETA):
        for _ in range(3):
            submitted(rt, org_id, labels={"a": "1"})
    cursor = web.get("/analyze/jobs?limit=1&label.a=1").json()["next_cursor"]

    assert len(ids(web.get("/analyze/jobs", params={"cursor": cursor, "label.a": "1"}))) == 2
    assert len(ids(web.get("/analyze/jobs", params={"cursor": cursor, "label.a": "1", "limit": 1}))) == 1
    for params in ({}, {"label.a": "2"}, {"label.a": "1", "status": "queued"}):
        answer = web.get("/analyze/jobs", params={"cursor": cursor, **params})
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "cursor")
    other = web.get("/analyze/jobs", params={"cursor": cursor, "label.a": "1"}, headers={"X-Org-Id": "beta"})
    assert other.status_code == 400


def test_every_filter_keeps_what_it_says(rt: Runtime, web: Web, clock: FakeClock) -> None:
    done = finished(rt, labels={"team": "a", "run": "1"})
    clock.advance(seconds=60)
    broken = failed(rt)
    clock.advance(seconds=60)
    last = submitted(rt, analysis="fileless", labels={"team": "a", "run": "2"})

    def asked(query: str) -> list[str]:
        return ids(web.get(f"/analyze/jobs?{query}"))

    at = broken.submitted_at.isoformat().replace("+00:00", "Z")
    assert asked("status=completed") == [done.job_id]
    assert asked("status=completed&status=failed") == [broken.job_id, done.job_id]
    assert asked("status=failed&status=completed") == [broken.job_id, done.job_id]
    assert asked("analysis=fileless") == [last.job_id]
    assert asked("analysis=unknown") == []
    assert asked("label.team=a") == [last.job_id, done.job_id]
    assert asked("label.team=a&label.run=2") == [last.job_id]
    assert asked("label.team=b") == []
    assert asked(f"created_after={at}") == [last.job_id]
    assert asked(f"created_before={at}") == [done.job_id]
    assert asked("label.team=a&status=completed&analysis=count") == [done.job_id]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=a&cursor=b", "cursor"),
        ("analysis=count&analysis=count", "analysis"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("status=done", "status[0]"),
        ("status=queued&status=", "status[1]"),
        ("created_after=yesterday", "created_after"),
        ("created_before=2026-01-01", "created_before"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("created_after=0001-01-01T00:00:00%2B23:59", "created_after"),
        ("cursor=x", "cursor"),
        ("cursor=", "cursor"),
        ("label.=x", "label."),
        ("label.a=1&label.a=2", "label.a"),
        ("label.a=%00", "label.a"),
        ("label.a%00=1", "label.a"),
        ("analysis=%00", "analysis"),
        ("analysis=" + "x" * 300, "analysis"),
        ("&".join(f"label.k{n}=1" for n in range(17)), "label.k16"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_by_name(web: Web, query: str, field: str) -> None:
    answer = web.get(f"/analyze/jobs?{query}")

    assert answer.status_code == 400
    assert [one["field"] for one in answer.json()["details"]] == [field]


def test_a_label_filter_without_a_name_is_told_what_is_missing(web: Web) -> None:
    assert "name is missing" in web.get("/analyze/jobs?label.=x").json()["message"]


def test_unknown_parameters_are_passed_over_unless_the_client_is_strict(rt: Runtime, web: Web) -> None:
    job = submitted(rt)
    strict = {"Prefer": "handling=strict"}

    for path in (
        "/analyze/jobs",
        url(job),
        url(job, "/events"),
        url(job, "/results"),
        "/analyses",
        "/health",
    ):
        assert web.get(f"{path}?colour=red").status_code == 200
        refused = web.get(f"{path}?colour=red", headers=strict)
        assert (refused.status_code, refused.json()["details"][0]["field"]) == (400, "colour")
    assert web.get("/analyze/jobs?label.colour=red&limit=1", headers=strict).status_code == 200


# ---------------------------------------------------------------- events, logs, notifications
def test_events_come_in_pages(rt: Runtime, web: Web) -> None:
    job = finished(rt)

    first = web.get(url(job, "/events?limit=3")).json()
    rest = web.get(url(job, f"/events?after={first['next_after']}")).json()

    assert [event["event_seq"] for event in first["events"]] == [1, 2, 3]
    assert [event["event_type"] for event in rest["events"]] == ["job.completed"]
    assert (first["next_after"], rest["next_after"]) == (3, None)
    assert rest["events"][0]["payload_json"]["result_id"] == job.result_id
    assert web.get(url(job, "/events?after=4")).json()["events"] == []


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "limit=0", "limit=1001", "after=99999999999999999999"]
)
def test_a_page_of_events_that_makes_no_sense_is_refused(rt: Runtime, web: Web, query: str) -> None:
    assert web.get(url(submitted(rt), f"/events?{query}")).status_code == 400


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200),
        ("*/*", 200),
        ("text/event-stream, application/json", 200),
        ("text/event-stream, */*;q=0.1", 200),
        ("text/event-stream", 406),
        ("TEXT/Event-Stream;q=0.9", 406),
        ("text/event-stream, application/json;q=0", 406),
    ],
)
def test_a_client_that_takes_a_stream_only_is_told_that_there_is_none(
    rt: Runtime, web: Web, accept: str, status: int
) -> None:
    answer = web.get(url(submitted(rt), "/events"), headers={"Accept": accept})

    assert answer.status_code == status
    if status == 406:
        assert answer.json()["code"] == "not_acceptable"


def test_what_attempts_printed_can_be_read(rt: Runtime, web: Web) -> None:
    run = started(rt)
    runs.keep_log(rt, ALPHA, run.job.job_id, 1, "line\n\x1b[31mred")

    assert web.get(url(run.job, "/logs")).json()["logs"] == [{"attempt": 1, "text": "line\n\x1b[31mred"}]
    assert web.get(url(submitted(rt), "/logs")).json()["logs"] == []


def test_the_end_of_a_job_is_told_once(rt: Runtime, web: Web) -> None:
    job = finished(rt)

    (told,) = web.get(url(job, "/notifications?channel=in_app&limit=20")).json()["notifications"]

    assert (told["template_key"], told["channel"]) == ("async.job.completed", "in_app")
    assert told["dedupe_key"] == f"{job.job_id}:in_app:async.job.completed"
    assert set(told["payload_json"]) == {
        *("job_id", "status", "result_id", "progress_percent", "error_code", "retry_hint", "finished_at")
    }
    assert told["payload_json"]["result_id"] == job.result_id
    assert web.get(url(job, "/notifications")).json()["notifications"] == [told]
    assert web.get(url(job, "/notifications?channel=webhook")).json()["notifications"] == []
    assert web.get(url(submitted(rt), "/notifications")).json()["notifications"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "channel=sms", "channel="])
def test_notifications_that_make_no_sense_are_refused(rt: Runtime, web: Web, query: str) -> None:
    assert web.get(url(submitted(rt), f"/notifications?{query}")).status_code == 400


# ---------------------------------------------------------------- cancel, retry, hold, erase
def test_a_queued_job_is_canceled_at_once(rt: Runtime, web: Web) -> None:
    job = submitted(rt)

    answer = web.post(url(job, "/cancel"), json={"reason": "no longer needed"})

    shown = answer.json()["job"]
    assert (answer.status_code, shown["status"], shown["cancel_reason"]) == (
        200,
        "canceled",
        "no longer needed",
    )
    assert shown["canceled_by"] == "tenant"
    assert shown["canceled_at"] is not None


def test_a_running_job_is_asked_to_stop(rt: Runtime, web: Web) -> None:
    run = started(rt)

    first, again = web.post(url(run.job, "/cancel")), web.post(url(run.job, "/cancel"))

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["job"]["status"] == "running"
    assert (
        first.json()["job"]["cancel_requested_at"] == again.json()["job"]["cancel_requested_at"] is not None
    )
    assert int(first.headers["retry-after"]) >= 1


@pytest.mark.parametrize("body", [{}, {"reason": None}, {"reason": "x", "colour": "red"}])
def test_an_ended_job_stays_as_it_is(rt: Runtime, web: Web, body: Any) -> None:
    job = finished(rt)
    before = web.get(url(job)).json()["job"]

    answer = web.post(url(job, "/cancel"), json=body)

    assert (answer.status_code, answer.json()["job"]["status"]) == (200, "completed")
    assert web.get(url(job)).json()["job"] == before


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"[]", {"Content-Type": "application/json"}),
        (b"{", {"Content-Type": "application/json"}),
        (b'{"reason":1}', {"Content-Type": "application/json"}),
        (b'{"reason":"' + b"x" * 501 + b'"}', {"Content-Type": "application/json"}),
        (b'{"reason":"a\\u0000"}', {"Content-Type": "application/json"}),
        (b'{"colour":1}', {"Content-Type": "application/json", "Prefer": "handling=strict"}),
        (b'{"reason":"x"}', {"Content-Type": "text/plain"}),
        (b'{"reason":"x"}', {}),
    ],
)
def test_a_reason_that_is_none_cancels_nothing(
    rt: Runtime, web: Web, content: bytes, headers: dict[str, str]
) -> None:
    job = submitted(rt)

    assert web.post(url(job, "/cancel"), content=content, headers=headers).status_code == 400
    assert stored_jobs(rt)[0].status == "queued"


def test_a_job_without_a_result_can_be_tried_again(rt: Runtime, web: Web) -> None:
    old = failed(rt)

    answer = web.post(url(old, "/retry"))

    shown = answer.json()["job"]
    assert (answer.status_code, shown["status"], shown["retry_of"]) == (202, "queued", old.job_id)
    assert answer.headers["location"] == f"/analyze/jobs/{shown['job_id']}" != url(old)
    assert web.get(url(old)).json()["job"]["status"] == "failed"


def test_only_what_ended_without_a_result_can_be_tried_again(rt: Runtime, web: Web) -> None:
    for job in (submitted(rt), finished(rt)):
        answer = web.post(url(job, "/retry"))
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_an_ended_job_can_be_erased_with_all_that_belongs_to_it(rt: Runtime, web: Web) -> None:
    job = finished(rt)

    answer = web("DELETE", url(job))

    assert (answer.status_code, answer.content) == (204, b"")
    for path in (
        url(job),
        url(job, "/events"),
        url(job, "/notifications"),
        f"/analyze/results/{job.result_id}",
    ):
        assert web.get(path).status_code == 404
    assert web("DELETE", url(job)).status_code == 404


def test_a_job_that_goes_on_cannot_be_erased(rt: Runtime, web: Web) -> None:
    for job in (submitted(rt), started(rt).job):
        answer = web("DELETE", url(job))
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_a_held_job_cannot_be_erased_until_the_hold_is_lifted(rt: Runtime, web: Web) -> None:
    job = finished(rt)

    held = web("PUT", url(job, "/hold"))
    again = web("PUT", url(job, "/hold"))
    refused = web("DELETE", url(job))
    lifted = web("DELETE", url(job, "/hold"))

    assert (held.status_code, held.json()["job"]["held"], again.status_code) == (200, True, 200)
    assert (refused.status_code, refused.json()["code"]) == (423, "legal_hold")
    assert (lifted.status_code, lifted.json()["job"]["held"]) == (200, False)
    assert web("DELETE", url(job)).status_code == 204


# ---------------------------------------------------------------- the rest
def test_the_catalogue_says_what_can_be_asked_for(web: Web) -> None:
    listed = web.get("/analyses").json()

    assert [one["name"] for one in listed["analyses"]] == ["broken", "count", "file-only", "fileless"]
    assert listed["default_analysis"] == "count"
    one = web.get("/analyses/count").json()["analysis"]
    assert one == listed["analyses"][1]
    assert (one["title"], one["version"], one["limits"]["timeout_seconds"]) == ("Count", "1", 600.0)
    assert one["params_schema"]["properties"]["upto"] == {"type": "integer", "minimum": 0}
    assert "source" not in one
    broken = web.get("/analyses/broken").json()["analysis"]
    assert (broken["available"], broken["unavailable_reason"]) == (False, "No module named 'absent'")
    assert web.get("/analyses/absent").status_code == 404


def test_health_says_that_the_process_is_up(web: Web, clock: FakeClock) -> None:
    content = web.get("/health").json()

    assert set(content) == {"ok", "service", "version", "ts", "request_id", "durability"}
    assert (content["ok"], content["service"], content["version"]) == (True, "async-delivery", "1.2.3")
    assert "synchronous=FULL" in content["durability"]


def test_health_does_not_depend_on_the_store_or_the_tenant(rt: Runtime, web: Web) -> None:
    rt.store.close()

    answer = web.get("/health", headers={"X-Org-Id": "no such name"})

    assert (answer.status_code, answer.json()["ok"]) == (200, True)


def test_a_job_is_found_under_its_labels_as_they_were_sent(rt: Runtime, web: Web) -> None:
    sent = {"Größe": "a&b=c", "x.y": "", "z": "%41"}
    job = web.submit({"labels": sent, "options": {"async_mode": {"requested": True}}}).json()["job"]

    assert job["labels"] == sent
    for key, value in sent.items():
        assert ids(web.get("/analyze/jobs", params={f"label.{key}": value})) == [job["job_id"]]
    complete(rt, job["job_id"])
