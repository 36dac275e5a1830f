"""The permalink: stored bytes, sent as they are, to their owner, for as long as they live."""

from __future__ import annotations

from datetime import timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from async_delivery.api import results as module
from async_delivery.domain.instant import format_instant
from async_delivery.domain.result import Result
from async_delivery.engine import results
from async_delivery.engine.retention import cleanup_retention
from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.api.support import NOBODYS, Web, finished, sealed, started
from tests.engine.support import ALPHA, completed, published
from tests.storage.support import break_by_hand

MEMBERS = [
    *("ok", "result_id", "job_id", "correlation_id", "result_kind", "result_seq", "requested_result_id"),
    *("requested_result_kind", "projection_mode", "is_final", "created_at", "expires_at", "result"),
]


def url(result_id: object, view: str | None = None) -> str:
    return f"/analyze/results/{result_id}" + (f"?view={view}" if view else "")


def snapshots(rt: Runtime, job_id: Any) -> list[Result]:
    return results.list_results(rt, ALPHA, job_id)


def test_a_final_result_is_what_was_promised(rt: Runtime, web: Web) -> None:
    job = finished(rt, {"b": 1, "a": [1.5, "ä"]}, correlation_id='order "7"')
    (_, final) = snapshots(rt, job.job_id)

    answer = web.get(url(job.result_id))

    content = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert list(content) == MEMBERS
    assert content["result"] == {"a": [1.5, "ä"], "b": 1}
    assert (content["result_id"], content["job_id"]) == (job.result_id, job.job_id)
    assert content["correlation_id"] == 'order "7"'
    assert (content["result_kind"], content["result_seq"], content["is_final"]) == ("final", 2, True)
    assert content["requested_result_id"] == job.result_id
    assert content["projection_mode"] == "latest"
    assert content["expires_at"] == format_instant(final.expires_at)
    assert answer.headers["content-location"] == url(job.result_id)
    assert parsedate_to_datetime(answer.headers["sunset"]) == final.expires_at.replace(microsecond=0)
    assert set(answer.headers["vary"].split(", ")) == {"X-Org-Id", "X-Tenant-Id", "Authorization"}


def test_the_result_is_the_stored_bytes(rt: Runtime, web: Web) -> None:
    payload = {"z": [1, 2.0, None, True, "\u2028", "\\"], "a": {"€": 2**63}}
    job = finished(rt, payload)
    (_, final) = snapshots(rt, job.job_id)

    content = web.get(url(job.result_id)).content

    stored = content.partition(b'"result":')[2][:-1]
    assert stored == sealed(payload)
    assert sha256(stored).hexdigest() == final.sha256


def test_two_views_of_a_job_with_partial_results(rt: Runtime, web: Web) -> None:
    job = finished(rt, {"whole": 2})
    partial, final = snapshots(rt, job.job_id)

    latest = web.get(url(partial.result_id))
    requested = web.get(url(partial.result_id, "requested"))

    assert (latest.json()["result"], requested.json()["result"]) == ({"whole": 2}, {"part": 1})
    assert latest.json()["result_id"] == final.result_id
    assert latest.json()["requested_result_id"] == partial.result_id
    assert (latest.json()["requested_result_kind"], latest.json()["result_kind"]) == ("partial", "final")
    assert latest.headers["content-location"] == url(final.result_id)
    assert requested.json()["result_id"] == requested.json()["requested_result_id"] == partial.result_id
    assert (requested.json()["projection_mode"], requested.json()["is_final"]) == ("requested", False)
    assert requested.headers["content-location"] == url(partial.result_id)


def test_the_latest_of_a_running_job_moves_on(rt: Runtime, web: Web) -> None:
    run = started(rt)
    first = published(rt, run, {"n": 1})
    one = web.get(url(first.result_id))
    published(rt, run, {"n": 2})
    two = web.get(url(first.result_id), headers={"If-None-Match": one.headers["etag"]})
    completed(rt, run, {"n": 3})
    three = web.get(url(first.result_id), headers={"If-None-Match": two.headers["etag"]})

    assert [answer.json()["result"]["n"] for answer in (one, two, three)] == [1, 2, 3]
    assert one.headers["cache-control"] == two.headers["cache-control"] == "private, no-cache"
    assert three.headers["cache-control"] == "private, max-age=86400, immutable"


def test_a_client_may_keep_a_snapshot_no_longer_than_it_lives(
    rt: Runtime, web: Web, clock: FakeClock
) -> None:
    job = finished(rt, results_ttl_seconds=100)
    clock.advance(seconds=40)

    assert web.get(url(job.result_id)).headers["cache-control"] == "private, max-age=60, immutable"


@pytest.mark.parametrize(
    "view", ["", "newest", "LATEST", "latest ", "%00", "requested&view=latest", "\udcff"]
)
@pytest.mark.parametrize("mine", [True, False])
def test_another_view_is_refused_whoever_asks_for_whatever(
    rt: Runtime, web: Web, view: str, mine: bool
) -> None:
    job = finished(rt)
    query = b"view=" + view.encode("utf-8", "surrogateescape")

    answer = web.get(url(job.result_id if mine else NOBODYS), params=query.decode("latin-1"))

    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "view")


def test_other_parameters_are_passed_over_unless_the_client_is_strict(rt: Runtime, web: Web) -> None:
    job = finished(rt)

    assert web.get(url(job.result_id) + "?view=latest&x=1").status_code == 200
    strict = web.get(url(job.result_id) + "?view=latest&x=1", headers={"Prefer": "handling=strict"})
    assert (strict.status_code, strict.json()["details"][0]["field"]) == (400, "x")


# ---------------------------------------------------------------- tags
def test_a_result_the_client_has_is_not_sent_again(rt: Runtime, web: Web) -> None:
    job = finished(rt)
    first = web.get(url(job.result_id))
    tag = first.headers["etag"]

    for value in (tag, f'"x", {tag}', f"W/{tag}", "*"):
        answer = web.get(url(job.result_id), headers={"If-None-Match": value})

        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        for name in ("cache-control", "content-location", "sunset", "vary"):
            assert answer.headers[name] == first.headers[name]
    assert not tag.startswith("W/")
    assert web.get(url(job.result_id), headers={"If-None-Match": '"other"'}).status_code == 200


def test_equal_tags_mean_equal_bytes_and_other_bytes_other_tags(rt: Runtime, web: Web) -> None:
    same = {"n": 1}
    run = started(rt)
    for _ in range(2):
        published(rt, run, same)
    completed(rt, run, same)
    other = finished(rt, same)
    ids = [one.result_id for job in (run.job, other) for one in snapshots(rt, job.job_id)]

    answers = [web.get(url(one, view)) for one in ids for view in ("latest", "requested") for _ in range(2)]

    by_tag: dict[str, set[bytes]] = {}
    for answer in answers:
        by_tag.setdefault(answer.headers["etag"], set()).add(answer.content)
    assert all(len(bodies) == 1 for bodies in by_tag.values())
    assert len(by_tag) == len({answer.content for answer in answers})


def test_equal_answers_are_equal_bytes_whoever_asks(rt: Runtime, web: Web) -> None:
    job = finished(rt)

    one, two = (web.get(url(job.result_id), headers={"X-Request-Id": name}) for name in ("one", "two"))

    assert one.content == two.content
    assert (one.headers["x-request-id"], two.headers["x-request-id"]) == ("one", "two")


# ---------------------------------------------------------------- expiry
def test_an_expired_result_is_gone_for_its_owner_and_unknown_to_others(
    rt: Runtime, web: Web, clock: FakeClock
) -> None:
    job = finished(rt, results_ttl_seconds=100)
    expires_at = clock.now() + timedelta(seconds=100)
    clock.advance(seconds=99)
    before = web.get(url(job.result_id))
    clock.advance(seconds=1)

    after = web.get(url(job.result_id))
    other = web.get(url(job.result_id), headers={"X-Org-Id": "beta"})

    assert before.status_code == 200
    assert (after.status_code, after.json()["code"]) == (410, "result_expired")
    assert after.json()["expired_at"] == format_instant(expires_at)
    assert web.get(url(job.result_id), headers={"If-None-Match": before.headers["etag"]}).status_code == 410
    assert other.status_code == 404


def test_a_job_leads_to_its_result_until_that_has_expired(rt: Runtime, web: Web, clock: FakeClock) -> None:
    job = finished(rt, results_ttl_seconds=100)

    def links() -> list[bool]:
        one = web.get(f"/analyze/jobs/{job.job_id}").json()["job"]
        (listed,) = web.get("/analyze/jobs").json()["jobs"]
        assert one["result_id"] == listed["result_id"] == job.result_id
        return ["result" in one["links"], "result" in listed["links"]]

    clock.advance(seconds=99)
    assert links() == [True, True]
    clock.advance(seconds=1)
    assert links() == [False, False]


def test_what_cleanup_took_is_gone_as_well(rt: Runtime, web: Web, clock: FakeClock) -> None:
    job = finished(rt)
    (partial, final) = snapshots(rt, job.job_id)
    assert web.get(url(job.result_id)).status_code == 200
    clock.advance(seconds=1)
    cleanup_retention(rt.store, results_ttl_seconds=0, events_ttl_seconds=0, now=clock.now())

    for one in (partial, final):
        for view in ("latest", "requested"):
            answer = web.get(url(one.result_id, view))
            assert (answer.status_code, "expired_at" in answer.json()) == (410, True)
            assert web("HEAD", url(one.result_id, view)).status_code == 410
    assert web.get(f"/analyze/jobs/{job.job_id}/results").json()["results"] == []


# ---------------------------------------------------------------- large ones
@pytest.mark.parametrize("inline", [True, False])
def test_a_large_result_comes_whole(
    rt: Runtime, web: Web, inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rt.store, "inline_reads", inline)
    payload = {"text": "x" * (module.INLINE_BYTES * 2)}
    job = finished(rt, payload)

    answer, head = web.get(url(job.result_id)), web("HEAD", url(job.result_id))

    assert answer.json()["result"] == payload
    assert int(answer.headers["content-length"]) == len(answer.content) == int(head.headers["content-length"])


def test_a_store_that_must_not_be_read_on_the_event_loop_gives_the_same(
    rt: Runtime, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished(rt)
    paths = [url(job.result_id), f"/analyze/jobs/{job.job_id}/results", f"/analyze/jobs/{job.job_id}/events"]
    inline = [web.get(path, headers={"X-Request-Id": "r"}).content for path in paths]
    monkeypatch.setattr(rt.store, "inline_reads", False)

    assert [web.get(path, headers={"X-Request-Id": "r"}).content for path in paths] == inline


# ---------------------------------------------------------------- the list
def test_the_list_shows_every_snapshot_without_its_body(rt: Runtime, web: Web) -> None:
    job = finished(rt)
    expected = snapshots(rt, job.job_id)

    listed = web.get(f"/analyze/jobs/{job.job_id}/results").json()["results"]

    assert [one["result_id"] for one in listed] == [one.result_id for one in expected]
    assert [one["result_kind"] for one in listed] == ["partial", "final"]
    for shown, known in zip(listed, expected, strict=True):
        assert (shown["bytes"], shown["sha256"], shown["result_seq"]) == (
            known.size_bytes,
            known.sha256,
            known.result_seq,
        )
        assert {"created_at", "expires_at"} <= set(shown)
        assert "result" not in shown


def test_a_result_whose_stored_bytes_have_changed_is_not_served(
    rt: Runtime, web: Web, tmp_path: Path
) -> None:
    damaged, sound = finished(rt, {"a": 1}), finished(rt, {"b": 2})
    statement = "UPDATE result_bodies SET data = ? WHERE data = ?"
    break_by_hand(tmp_path, statement, b'{"a":7}', b'{"a":1}')

    for view in ("latest", "requested"):
        answer = web.get(f"/analyze/results/{damaged.result_id}?view={view}")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert web.get(f"/analyze/results/{sound.result_id}").json()["result"] == {"b": 2}
