"""Whatever is sent: a refusal that names the field, no 5xx, and nothing kept."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from async_delivery.engine.runtime import Runtime
from tests.api.support import ASYNC, Web, stored_jobs

JSON = {"Content-Type": "application/json"}


def body(**members: Any) -> bytes:
    return orjson.dumps({**ASYNC, **members})


# Content -> the field that the refusal names.
BODIES: list[tuple[bytes, str]] = [
    (b"", "body"),
    (b"{", "body"),
    (b"[]", "body"),
    (b"null", "body"),
    (b'"x"', "body"),
    (b"\x00", "body"),
    (b"\xff\xfe{\x00}\x00", "body"),
    (b'\xef\xbb\xbf{"query":"x"}', "body"),
    (b"[" * 50_000, "body"),
    (b'{"params":' + b'{"a":' * 16_000 + b"1" + b"}" * 16_000 + b"}", "body"),
    (b'{"params":{"a":' + b"[" * 70 + b"]" * 70 + b"}}", "params.a" + "[0]" * 62),
    (b'{"params":{"upto":NaN}}', "params.upto"),
    (b'{"params":{"upto":-Infinity}}', "params.upto"),
    (b'{"params":{"upto":1e400}}', "params.upto"),
    (b'{"params":{"upto":' + b"9" * 5_000 + b"}}", "params.upto"),
    (b'{"params":{"upto":18446744073709551616}}', "params.upto"),
    (b'{"timeout_seconds":' + b"9" * 50 + b"}", "timeout_seconds"),
    (b'{"query":"\\ud83d"}', "query"),
    (b'{"params":{"k":"\\udead"}}', "params.k"),
    (b'{"labels":{"\\ud800":"x"}}', "labels.\\ud800"),
    (b'{"query":"a\\u0000b"}', "query"),
    (b'{"analysis":"count\\u0000"}', "analysis"),
    (b'{"labels":{"a":"\\u0000"}}', "labels.a"),
    (b'{"params":{"a":"\\u0000"}}', "params.a"),
    (b'{"query":"a","query":"b"}', "query"),
    (b'{"params":{"upto":1,"upto":2}}', "params.upto"),
    (b'{"query":"\xff"}', "body"),
    (body(analysis="absent"), "analysis"),
    (body(analysis=""), "analysis"),
    (body(analysis=["count"]), "analysis"),
    (body(analysis="broken"), "analysis"),
    (body(analysis="file-only"), "file"),
    (body(query=7), "query"),
    (body(query="x" * 10_001), "query"),
    (body(params=[]), "params"),
    (body(params="x"), "params"),
    (body(params={"unknown": 1}), "params"),
    (body(params={"upto": "3"}), "params.upto"),
    (body(params={"upto": True}), "params.upto"),
    (body(params={"upto": 1.5}), "params.upto"),
    (body(timeout_seconds="10"), "timeout_seconds"),
    (body(timeout_seconds=True), "timeout_seconds"),
    (body(timeout_seconds=-1), "timeout_seconds"),
    (body(timeout_seconds=1e300), "timeout_seconds"),
    (body(labels=[]), "labels"),
    (body(labels={"a": 1}), "labels.a"),
    (body(labels={"a": None}), "labels.a"),
    (body(labels={"": "x"}), "labels"),
    (body(labels={"a\n": "x"}), "labels"),
    (body(labels={"a" * 65: "x"}), "labels"),
    (body(labels={"a": "x" * 257}), "labels.a"),
    (body(labels={str(n): "x" for n in range(17)}), "labels"),
    (b'{"options":[]}', "options"),
    (b'{"options":"x"}', "options"),
    (b'{"options":{"async_mode":true}}', "options.async_mode"),
    (b'{"options":{"async_mode":{"requested":"yes"}}}', "options.async_mode.requested"),
    (b'{"options":{"async_mode":{"requested":1}}}', "options.async_mode.requested"),
    (b'{"options":{"async_mode":{"requested":null}}}', "options.async_mode.requested"),
    (b'{"options":{"priority":"urgent"}}', "options.priority"),
    (b'{"options":{"priority":1}}', "options.priority"),
    (b'{"options":{"priority":{}}}', "options.priority"),
    (b'{"options":{"results_ttl_seconds":-1}}', "options.results_ttl_seconds"),
    (b'{"options":{"results_ttl_seconds":1.5}}', "options.results_ttl_seconds"),
    (b'{"options":{"results_ttl_seconds":1e18}}', "options.results_ttl_seconds"),
]


@pytest.mark.parametrize(
    ("content", "field"), BODIES, ids=[f"{n}-{f[:30]}" for n, (_, f) in enumerate(BODIES)]
)
def test_a_bad_body_is_refused_by_its_field_and_nothing_is_kept(
    rt: Runtime, web: Web, content: bytes, field: str
) -> None:
    answer = web.post("/analyze", content=content, headers=JSON)

    assert answer.status_code == 400, answer.text
    assert [one["field"] for one in answer.json()["details"]] == [field]
    assert stored_jobs(rt) == []


def test_three_faults_in_the_params_are_three_details(rt: Runtime, web: Web) -> None:
    answer = web.submit({"params": {"upto": -1, "step": "x", "unit": 7}})

    assert sorted(one["field"] for one in answer.json()["details"]) == [
        "params.step",
        "params.unit",
        "params.upto",
    ]
    assert stored_jobs(rt) == []


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (7, "options"),
        ({"async_mode": []}, "options.async_mode"),
        ({"async_mode": {"requested": "yes"}}, "options.async_mode.requested"),
    ],
)
def test_no_fault_hides_another(rt: Runtime, web: Web, options: Any, field: str) -> None:
    wrong = {"analysis": "count", "params": {"upto": -1}, "query": 7, "labels": {"a": 1}, "options": options}

    answer = web.submit(wrong, headers={"Idempotency-Key": "x" * 256})

    named = {one["field"] for one in answer.json()["details"]}
    assert named == {"Idempotency-Key", field, "params.upto", "query", "labels.a"}
    assert stored_jobs(rt) == []


@pytest.mark.parametrize(
    ("content", "headers", "field"),
    [(b"{", JSON, "body"), (b"{}", {"Content-Type": "text/plain"}, "Content-Type")],
)
def test_a_body_that_cannot_be_judged_does_not_hide_the_fault_of_a_header(
    web: Web, content: bytes, headers: dict[str, str], field: str
) -> None:
    answer = web.post("/analyze", content=content, headers={**headers, "Idempotency-Key": ""})

    assert [one["field"] for one in answer.json()["details"]] == ["Idempotency-Key", field]


def test_a_good_body_with_a_bad_key_is_refused(rt: Runtime, web: Web) -> None:
    answer = web.submit(headers={"Idempotency-Key": ""})

    assert [one["field"] for one in answer.json()["details"]] == ["Idempotency-Key"]
    assert stored_jobs(rt) == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": "application/xml, application/json"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary="},
        {"Content-Type": "multipart/form-data; boundary=" + "x" * 71},
        {"Content-Type": "multipart/mixed; boundary=x"},
    ],
)
def test_a_body_of_another_kind_is_refused(rt: Runtime, web: Web, headers: dict[str, str]) -> None:
    answer = web.post("/analyze", content=body(), headers=headers)

    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] in {"Content-Type", "Content-Encoding"}
    assert stored_jobs(rt) == []


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_is_taken_however_it_is_called(web: Web, kind: str) -> None:
    assert web.post("/analyze", content=body(), headers={"Content-Type": kind}).status_code == 202


def test_a_repeated_content_type_is_refused(rt: Runtime, web: Web) -> None:
    headers = [("X-Org-Id", "alpha"), ("Content-Type", "application/json"), ("Content-Type", "text/plain")]

    assert web.post("/analyze", content=body(), headers=headers).status_code == 400
    assert stored_jobs(rt) == []


def test_a_large_body_is_judged_like_a_small_one(rt: Runtime, web: Web) -> None:
    padding = "x" * 80_000

    good = web.submit({**ASYNC, "comment": padding})
    bad = web.submit({**ASYNC, "comment": padding, "params": {"upto": -1}})

    assert (good.status_code, bad.status_code) == (202, 400)
    assert len(stored_jobs(rt)) == 1
