"""POST /analyze: accepted means durable, and the answer comes the way the client prefers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_delivery.domain.failure import failure
from async_delivery.domain.job import JobId
from async_delivery.engine import jobs, runs
from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.api.support import ASYNC, Web, come_true, complete, only_job, serving, stored_jobs, wait_for
from tests.engine.support import ALPHA, claimed, completed, runtime

SYNC: dict[str, Any] = {}


def prefer(*values: str) -> list[tuple[str, str]]:
    return [("X-Org-Id", "alpha"), *(("Prefer", value) for value in values)]


async def run_when_queued(rt: Runtime, payload: Any = None) -> JobId:
    """A worker that takes the first job there is and completes it."""
    claimed_runs = await come_true(lambda: runs.claim(rt, "worker-a", 1))
    return (await asyncio.to_thread(completed, rt, claimed_runs[0], payload)).job_id


# ---------------------------------------------------------------- asynchronous
def test_an_asynchronous_submit_is_accepted_and_says_where_to_look(rt: Runtime, web: Web) -> None:
    body = {**ASYNC, "analysis": "count", "query": "sales", "params": {"upto": 3}, "labels": {"team": "ä"}}

    answer = web.submit(body)

    content = answer.json()
    job_id = content["job"]["job_id"]
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/analyze/jobs/{job_id}" == content["links"]["self"]
    assert int(answer.headers["retry-after"]) >= 1
    assert "preference-applied" not in answer.headers
    assert (content["ok"], content["accepted"]) == (True, True)
    assert content["correlation_id"] == content["job"]["correlation_id"] == job_id
    assert content["request_id"] == answer.headers["x-request-id"]
    assert (content["job"]["status"], content["job"]["labels"]) == ("queued", {"team": "ä"})
    assert web.get(answer.headers["location"]).json()["job"]["status"] == "queued"
    request = rt.store.read(lambda reader: reader.find_request(ALPHA, job_id))
    assert request is not None
    assert (request.query, request.params_json) == ("sales", b'{"upto":3}')


@pytest.mark.parametrize(
    ("values", "applied"),
    [
        (("respond-async",), "respond-async"),
        (("Respond-Async",), "respond-async"),
        (("return=minimal, respond-async",), "respond-async"),
        (("respond-async, wait=0",), "respond-async, wait=0"),
        (("respond-async", "wait=0"), "respond-async, wait=0"),
        (("handling=strict, respond-async",), "handling=strict, respond-async"),
        (("wait=0",), "wait=0"),
    ],
)
def test_a_client_may_prefer_not_to_wait(web: Web, values: tuple[str, ...], applied: str) -> None:
    answer = web.submit(SYNC, headers=prefer(*values))

    assert (answer.status_code, answer.headers["preference-applied"]) == (202, applied)


def test_what_is_left_out_gets_its_default(web: Web) -> None:
    job = web.submit().json()["job"]

    assert (job["analysis"], job["priority"], job["timeout_seconds"]) == ("count", "default", 600.0)
    assert (job["labels"], job["results_ttl_seconds"]) == ({}, 604_800)


# ---------------------------------------------------------------- synchronous
@pytest.mark.parametrize("values", [(), ("wait=30",), ("respond-async, wait=30",)])
def test_a_client_that_waits_gets_the_result_itself(rt: Runtime, web: Web, values: tuple[str, ...]) -> None:
    async def talk(ask: Any) -> Any:
        return await asyncio.gather(
            ask("POST", "/analyze", json=SYNC, headers=prefer(*values)), run_when_queued(rt, {"total": 7})
        )

    answer, job_id = web.run(talk)

    job = jobs.find(rt, ALPHA, job_id)
    assert answer.status_code == 200
    assert answer.headers["content-location"] == f"/analyze/results/{job.result_id}"
    assert answer.headers.get("preference-applied") == (", ".join(values) or None)
    assert answer.content == web.get(f"/analyze/results/{job.result_id}").content
    assert answer.json()["result"] == {"total": 7}


def test_a_wait_that_is_too_short_ends_as_an_accepted_job(rt: Runtime, web: Web) -> None:
    answer = web.submit(SYNC, headers=prefer("wait=1"))

    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")
    assert answer.headers["location"] == f"/analyze/jobs/{only_job(rt)}"


def test_nobody_waits_longer_than_the_server_allows(rt: Runtime) -> None:
    with Web(rt, max_wait_seconds=0.2) as web:
        plain, patient = web.submit(SYNC), web.submit(SYNC, headers=prefer("wait=1000"))

    assert plain.status_code == patient.status_code == 202
    assert patient.headers["preference-applied"] == "wait=0.2"


@pytest.mark.parametrize("seconds", ["100", "99999999999999", "0" * 20 + "100"])
def test_a_longer_wait_is_cut_and_told_however_long_it_is(rt: Runtime, seconds: str) -> None:
    with Web(rt, max_wait_seconds=0.1) as web:
        answer = web.submit(SYNC, headers=prefer(f"wait={seconds}"))

    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0.1")


def test_a_result_that_expires_at_once_is_gone_and_its_job_is_named(rt: Runtime, web: Web) -> None:
    wanted = {"options": {"results_ttl_seconds": 0}}

    async def talk(ask: Any) -> Any:
        answer, _ = await asyncio.gather(ask("POST", "/analyze", json=wanted), run_when_queued(rt))
        return answer

    answer = web.run(talk)

    job_id = only_job(rt)
    assert (answer.status_code, answer.json()["code"]) == (410, "result_expired")
    assert answer.headers["location"] == f"/analyze/jobs/{job_id}"
    assert {"field": "job_id", "issue": job_id} in answer.json()["details"]


def test_a_job_that_fails_while_its_client_waits_says_why(rt: Runtime, web: Web) -> None:
    def fail() -> None:
        run = claimed(rt)
        assert run.job.fence is not None
        reason = failure("no_such_station", "There is no station 7.")
        runs.fail(rt, ALPHA, run.job.job_id, run.job.fence, reason, again=False)

    async def worker() -> None:
        await come_true(lambda: stored_jobs(rt))
        await asyncio.to_thread(fail)

    async def talk(ask: Any) -> Any:
        answer, _ = await asyncio.gather(ask("POST", "/analyze", json=SYNC), worker())
        return answer

    answer = web.run(talk)

    content = answer.json()
    assert (answer.status_code, content["code"]) == (424, "job_failed")
    assert (content["job_id"], content["job_status"]) == (only_job(rt), "failed")
    assert (content["error_code"], content["retry_hint"]) == ("no_such_station", "check_input_and_retry")
    assert "There is no station 7." in content["message"]
    assert {one["field"] for one in content["details"]} >= {"job_id", "error_code", "retry_hint"}
    assert answer.headers["location"] == f"/analyze/jobs/{content['job_id']}"


def test_a_job_that_is_canceled_while_its_client_waits_is_no_success(rt: Runtime, web: Web) -> None:
    async def talk(ask: Any) -> Any:
        waiting = asyncio.ensure_future(ask("POST", "/analyze", json=SYNC))
        found = await come_true(lambda: stored_jobs(rt))
        await ask("POST", f"/analyze/jobs/{found[0].job_id}/cancel")
        return await waiting

    answer = web.run(talk)

    assert (answer.status_code, answer.json()["job_status"], answer.json()["error_code"]) == (
        424,
        "canceled",
        None,
    )


def test_a_client_that_hangs_up_cancels_nothing(rt: Runtime) -> None:
    body = b"{}"
    head = b"POST /analyze HTTP/1.1\r\nHost: x\r\nX-Org-Id: alpha\r\nContent-Type: application/json\r\n"
    with serving(rt) as server:
        with server.connect() as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_for(lambda: stored_jobs(rt))

        assert complete(rt, only_job(rt), 1).status == "completed"


def test_without_a_place_to_wait_the_job_is_accepted_all_the_same(rt: Runtime) -> None:
    with Web(rt, max_waits_per_tenant=0) as web:
        assert web.submit(SYNC).status_code == 202


# ---------------------------------------------------------------- strictness
def test_unknown_members_are_passed_over(web: Web) -> None:
    assert web.submit({**ASYNC, "colour": "red", "params": {}}).status_code == 202


def test_unknown_members_are_named_when_the_client_wants_strictness(rt: Runtime, web: Web) -> None:
    body = {"colour": 1, "options": {"async_mode": {"requested": True, "soon": 1}, "speed": 2}}

    answer = web.submit(body, headers=prefer("handling=strict"))

    assert answer.status_code == 400
    assert [one["field"] for one in answer.json()["details"]] == [
        "colour",
        "options.speed",
        "options.async_mode.soon",
    ]
    assert stored_jobs(rt) == []


def test_every_fault_of_the_params_is_named(rt: Runtime, web: Web) -> None:
    answer = web.submit({**ASYNC, "params": {"upto": -1, "step": 0, "unit": "miles"}, "timeout_seconds": 0})

    assert answer.status_code == 400
    assert {one["field"] for one in answer.json()["details"]} == {
        "params.upto",
        "params.step",
        "params.unit",
        "timeout_seconds",
    }
    assert stored_jobs(rt) == []


# ---------------------------------------------------------------- facts taken over
@pytest.mark.parametrize(
    ("sent", "kept"), [("order-7/ä".encode(), None), (b"order-7", "order-7"), (b"a b", None)]
)
def test_a_correlation_id_is_taken_over_if_it_can_be(web: Web, sent: bytes, kept: str | None) -> None:
    content = web.submit(headers=[("X-Org-Id", b"alpha"), ("X-Correlation-Id", sent)]).json()

    assert content["correlation_id"] == (kept or content["job"]["job_id"])


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([TRACE], TRACE),
        ([TRACE, TRACE], None),
        ([TRACE.upper()], None),
        (["ff" + TRACE[2:]], None),
        (["00-" + "0" * 32 + TRACE[35:]], None),
        (["junk"], None),
    ],
)
def test_a_trace_is_taken_over_if_it_is_one(rt: Runtime, web: Web, sent: list[str], kept: str | None) -> None:
    web.submit(headers=[("X-Org-Id", "alpha"), *(("traceparent", value) for value in sent)])

    assert stored_jobs(rt)[0].traceparent == kept


# ---------------------------------------------------------------- Idempotency-Key
def keyed(key: str = "k-1") -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_the_same_request_with_the_same_key_is_the_same_job(rt: Runtime, web: Web) -> None:
    first = web.submit(headers=keyed())
    again = web.submit(headers=keyed())

    assert first.status_code == again.status_code == 202
    assert first.json()["job"]["job_id"] == again.json()["job"]["job_id"] == only_job(rt)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"


def test_a_replay_shows_the_job_as_it_is_now(rt: Runtime, web: Web) -> None:
    job_id = web.submit(headers=keyed()).json()["job"]["job_id"]
    complete(rt, job_id, {"n": 1})

    asynchronous = web.submit(headers=keyed())
    synchronous = web.submit(SYNC, headers=keyed())

    assert (asynchronous.status_code, asynchronous.json()["job"]["status"]) == (202, "completed")
    assert "retry-after" not in asynchronous.headers
    assert (synchronous.status_code, synchronous.json()["result"]) == (200, {"n": 1})
    assert synchronous.headers["idempotency-replayed"] == "true"


def test_a_key_with_another_request_is_refused(rt: Runtime, web: Web) -> None:
    web.submit(headers=keyed())

    answer = web.submit({**ASYNC, "params": {"upto": 9}}, headers=keyed())

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert len(stored_jobs(rt)) == 1


def test_keys_belong_to_their_tenant(rt: Runtime, web: Web) -> None:
    mine = web.submit(headers=keyed()).json()["job"]["job_id"]
    theirs = web.submit(headers={**keyed(), "X-Org-Id": "beta"}).json()["job"]["job_id"]

    assert mine != theirs


def test_a_key_is_remembered_for_a_day(rt: Runtime, web: Web, clock: FakeClock) -> None:
    web.submit(headers=keyed())
    clock.advance(seconds=86_399)
    replayed = web.submit(headers=keyed())
    clock.advance(seconds=2)
    new = web.submit(headers=keyed())

    assert replayed.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in new.headers
    assert len(stored_jobs(rt)) == 2


def test_a_refused_request_leaves_its_key_free(rt: Runtime, web: Web) -> None:
    assert web.submit({**ASYNC, "params": {"upto": -1}}, headers=keyed()).status_code == 400

    assert web.submit(headers=keyed()).status_code == 202


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a\x01b", "schlüssel".encode(), b"a\x7fb"])
def test_a_key_of_another_form_is_refused(rt: Runtime, web: Web, key: bytes) -> None:
    answer = web.submit(headers=[("X-Org-Id", b"alpha"), ("Idempotency-Key", key)])

    assert answer.status_code == 400
    assert [one["field"] for one in answer.json()["details"]] == ["Idempotency-Key"]
    assert stored_jobs(rt) == []


def test_white_space_around_a_key_is_no_part_of_it(rt: Runtime, web: Web) -> None:
    answers = [
        web.submit(headers=[("X-Org-Id", b"alpha"), ("Idempotency-Key", key)])
        for key in (b"a b", b"a b ", b" a b\t", b"ab")
    ]

    first, *again, other = (one.json()["job"]["job_id"] for one in answers)
    assert again == [first, first]
    assert other != first


def test_white_space_around_ids_is_no_part_of_them(web: Web) -> None:
    answer = web.submit(
        headers=[("X-Org-Id", b"alpha"), ("X-Request-Id", b"r1 "), ("X-Correlation-Id", b"\tc1")]
    )

    assert (answer.headers["x-request-id"], answer.json()["correlation_id"]) == ("r1", "c1")


def test_a_repeated_key_is_refused(web: Web) -> None:
    answer = web.submit(headers=[("X-Org-Id", "alpha"), ("Idempotency-Key", "a"), ("Idempotency-Key", "a")])

    assert answer.status_code == 400


def test_many_at_once_with_one_key_make_one_job(rt: Runtime, web: Web) -> None:
    async def talk(ask: Any) -> list[Any]:
        tries = (ask("POST", "/analyze", json=ASYNC, headers=keyed()) for _ in range(40))
        return list(await asyncio.gather(*tries))

    answers = web.run(talk)

    accepted = [one for one in answers if one.status_code == 202]
    in_flight = [one for one in answers if one.status_code == 409]
    assert len(accepted) + len(in_flight) == 40
    assert {one.json()["job"]["job_id"] for one in accepted} == {only_job(rt)}
    assert in_flight, "none of them met the first one on its way"
    assert all(one.headers["retry-after"] == "1" for one in in_flight)
    assert web.submit(headers=keyed()).headers["idempotency-replayed"] == "true"


# ---------------------------------------------------------------- quotas and draining
def test_a_full_queue_says_when_to_come_back(rt: Runtime, clock: FakeClock) -> None:
    small = runtime(rt.store, clock, max_queued_per_tenant=2)
    with Web(small) as web:
        accepted = [web.submit().status_code for _ in range(2)]
        refused = web.submit()
        other = web.submit(headers={"X-Org-Id": "beta"})

    assert accepted == [202, 202]
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.json()["details"][0]["field"] == "quota.queued"
    assert int(refused.headers["retry-after"]) >= 1
    assert other.status_code == 202
    assert len(stored_jobs(rt)) == 2


def test_a_server_that_stops_takes_nothing_new_and_reads_on(rt: Runtime, web: Web) -> None:
    job_id = web.submit().json()["job"]["job_id"]
    web("POST", f"/analyze/jobs/{job_id}/cancel")
    web.draining = True

    submitted, retried = web.submit(), web.post(f"/analyze/jobs/{job_id}/retry")

    for answer in (submitted, retried):
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert web.get(f"/analyze/jobs/{job_id}").status_code == 200
    assert web.get("/health").status_code == 200
    assert len(stored_jobs(rt)) == 1


def test_a_server_that_stops_lets_those_who_wait_go(rt: Runtime, web: Web) -> None:
    async def talk(ask: Any) -> Any:
        waiting = asyncio.ensure_future(ask("POST", "/analyze", json=SYNC, headers=prefer("wait=50")))
        await come_true(lambda: stored_jobs(rt))
        web.draining = True
        return await asyncio.wait_for(waiting, 20)

    assert web.run(talk).status_code == 202
