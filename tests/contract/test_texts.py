"""Text that not every database can hold gets the same answer from every store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from async_delivery.domain.errors import NotSerializableError, ValidationError
from async_delivery.domain.failure import failure
from async_delivery.domain.result import seal
from async_delivery.engine import inputs, jobs, runs
from async_delivery.engine.runs import Report
from async_delivery.engine.runtime import Runtime
from async_delivery.engine.submission import Submission
from async_delivery.storage.contract import JobFilter, Store
from async_delivery.testing import FakeClock
from tests.engine.support import ALPHA, claimed, completed, quota, runtime, submitted

# A zero character, and each half of a surrogate pair.
UNSTORABLE = ("\0", "\ud83c", "\udf31")
ODD = "a\x01\x1f\x7f\u2028\ufeff\uffff\U0010ffff 🌱 e\u0301 \\u0000"


@pytest.fixture
def rt(store: Store) -> Runtime:
    return runtime(store, FakeClock())


def with_text(text: str) -> dict[str, dict[str, Any]]:
    """field -> a submission with ``text`` in it."""
    return {
        "query": {"query": text},
        "labels": {"labels": {f"key{text}": "value"}},
        "labels.key": {"labels": {"key": text}},
        "Idempotency-Key": {"idempotency_key": text},
        "X-Correlation-Id": {"correlation_id": text},
        "traceparent": {"traceparent": text},
    }


@pytest.mark.parametrize("bad", UNSTORABLE, ids=ascii)
def test_a_request_with_text_that_no_store_can_keep_is_refused_by_the_field(rt: Runtime, bad: str) -> None:
    for field, asked in with_text(f"before{bad}after").items():
        with pytest.raises(ValidationError) as refused:
            jobs.submit(rt, quota(rt), ALPHA, Submission(**asked))
        assert [issue.field for issue in refused.value.details] == [field]

    job = submitted(rt)
    for cancel, field in (
        (lambda: jobs.cancel(rt, ALPHA, job.job_id, "tenant", bad), "reason"),
        (lambda: jobs.cancel(rt, ALPHA, job.job_id, bad, None), "by"),
        (lambda: inputs.keep_input(rt, ALPHA, f"{bad}.csv", None, [b"x"], 10), "file"),
        (lambda: inputs.keep_input(rt, ALPHA, "a.csv", f"text/{bad}", [b"x"], 10), "file"),
    ):
        refuse: Callable[[], object] = cancel
        with pytest.raises(ValidationError) as refused:
            refuse()
        assert [issue.field for issue in refused.value.details] == [field]
    assert jobs.find(rt, ALPHA, job.job_id) == job


@pytest.mark.parametrize("bad", UNSTORABLE, ids=ascii)
def test_text_of_an_analysis_is_mended_and_costs_no_job(rt: Runtime, bad: str) -> None:
    submitted(rt)
    run = claimed(rt)
    job, fence = run.job, run.job.fence
    assert fence is not None

    runs.progress(rt, ALPHA, job.job_id, fence, Report(10.0, f"sta{bad}ge", f"{bad}message"))
    runs.keep_log(rt, ALPHA, job.job_id, 1, f"line {bad}")
    early = jobs.logs(rt, ALPHA, job.job_id)
    told = jobs.find(rt, ALPHA, job.job_id)
    ended = runs.fail(
        rt, ALPHA, job.job_id, fence, failure("own_word", f"it {bad} broke"), again=False, log=f"end {bad}"
    )

    assert (told.stage, told.message) == ("sta\ufffdge", "\ufffdmessage")
    assert early == [(1, "line \ufffd")]
    assert jobs.logs(rt, ALPHA, job.job_id) == [(1, "end \ufffd")]
    assert ended.error is not None
    assert ended.error.message == "it \ufffd broke"
    assert jobs.find(rt, ALPHA, job.job_id).error == ended.error
    assert jobs.status(rt, ALPHA, job.job_id, 50).events[-1].payload["error_message"] == "it \ufffd broke"


def test_every_other_character_is_kept_as_it_is(rt: Runtime) -> None:
    asked: dict[str, Any] = {
        "query": ODD,
        "labels": {"key 🌱": ODD},
        "correlation_id": ODD,
        "idempotency_key": ODD,
    }
    job = submitted(rt, **asked, params={"upto": 1})
    run = claimed(rt)
    assert run.job.fence is not None
    runs.progress(rt, ALPHA, job.job_id, run.job.fence, Report(1.0, ODD, ODD))

    found = jobs.find(rt, ALPHA, job.job_id)

    assert run.request.query == ODD
    assert (found.labels, found.correlation_id) == ({"key 🌱": ODD}, ODD)
    assert (found.stage, found.message) == (ODD, ODD)
    where = JobFilter(labels={"key 🌱": ODD})
    assert [one.job_id for one in jobs.list_jobs(rt, ALPHA, where, 10, None)] == [job.job_id]
    assert jobs.submit(rt, quota(rt), ALPHA, Submission(**asked, params={"upto": 1})).result(30).replayed


def test_bodies_are_bytes_so_a_zero_character_in_them_is_kept(rt: Runtime) -> None:
    submitted(rt)
    job = completed(rt, claimed(rt), {"zero \0": "\0"})
    assert job.result_id is not None

    body = rt.store.read(lambda reader: reader.find_body(ALPHA, job.result_id))  # type: ignore[arg-type]

    assert body == b'{"zero \\u0000":"\\u0000"}'
    with pytest.raises(NotSerializableError):
        seal({"half": "\ud83c"})


@pytest.mark.parametrize("bad", UNSTORABLE, ids=ascii)
def test_what_no_store_can_keep_is_not_found_in_one(rt: Runtime, bad: str) -> None:
    submitted(rt, labels={"key": "value"})

    def look(where: JobFilter) -> list[str]:
        return [job.job_id for job in jobs.list_jobs(rt, ALPHA, where, 10, None)]

    assert look(JobFilter(labels={"key": bad})) == []
    assert look(JobFilter(labels={bad: "value"})) == []
    assert look(JobFilter(analysis=bad)) == []
    assert rt.store.read(lambda reader: reader.find_job(ALPHA, bad)) is None  # type: ignore[arg-type]
    assert rt.store.read(lambda reader: reader.find_result(ALPHA, bad)) is None  # type: ignore[arg-type]
    assert rt.store.read(lambda reader: reader.find_idempotency(ALPHA, bad)) is None
    assert rt.store.read(lambda reader: reader.find_input(ALPHA, bad)) is None
