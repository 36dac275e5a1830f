from __future__ import annotations

import json
from datetime import timedelta

import pytest

from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.errors import NotFoundError
from async_delivery.domain.event import EventType
from async_delivery.domain.job import Job, JobId, JobRequest, JobStatus, Priority
from async_delivery.storage.contract import JobFilter, Store
from tests.contract.support import ALPHA, BETA, House
from tests.domain.support import REQUEST

EVERYTHING = JobFilter()


def listed(
    store: Store, where: JobFilter = EVERYTHING, limit: int = 50, before: Job | None = None
) -> list[Job]:
    last = before.job_id if before else None
    return store.read(lambda reader: reader.list_jobs(ALPHA, where, limit, last))


def test_a_job_comes_back_as_it_was_saved(house: House) -> None:
    job = house.submit(
        priority=Priority.EXPEDITE,
        labels={"team": "plants", "ümlaut 🌱": "wert \"with' quotes"},
        timeout_seconds=0.25,
        ttl_requested=True,
        results_ttl_seconds=12,
        traceparent="00-aa-bb-01",
        correlation_id="корреляция",
    )

    assert house.stored(job) == job


@pytest.mark.parametrize("ending", ["complete", "fail", "cancel", "retry", "release"])
def test_a_job_comes_back_as_it_was_saved_after_every_verb(house: House, ending: str) -> None:
    job = house.running()
    job = house.progress(job, 12.5, "reading", "line 🌱")
    assert house.stored(job) == job
    job = house.partial(job, {"so": "far"})
    assert house.stored(job) == job
    house.later(seconds=1, microseconds=7)

    if ending == "complete":
        job = house.complete(job, {"done": True})
    elif ending == "fail":
        job = house.fail(job)
    elif ending == "cancel":
        job = house.cancel(job)
    elif ending == "retry":
        job = house.fail(job, again=True, retry_after_seconds=60)
    else:
        job = house.release(job)

    assert house.stored(job) == job
    assert house.violations() == []


def test_a_request_comes_back_byte_by_byte(house: House) -> None:
    params = canonical_json({"text": "äöü 🌱\u0001", "deep": [[[1.5, -0.0, 2**63]]]})
    request = JobRequest("Was ist das? 🌱", params, "a" * 64)
    job = house.submit(request=request)

    found = house.store.read(lambda reader: reader.find_request(ALPHA, job.job_id))

    assert found == request


def test_an_unknown_job_is_none_and_cannot_be_locked(house: House) -> None:
    job = house.fresh()

    assert house.find(job) is None
    assert house.store.read(lambda reader: reader.find_request(ALPHA, job.job_id)) is None
    with pytest.raises(NotFoundError):
        house.store.write(lambda tx: tx.lock_job(ALPHA, job.job_id))


def test_jobs_are_listed_newest_first_and_page_by_page(house: House) -> None:
    jobs = [house.submit() for _ in range(7)]
    newest_first = jobs[::-1]

    first = listed(house.store, limit=3)
    second = listed(house.store, limit=3, before=first[-1])
    third = listed(house.store, limit=3, before=second[-1])

    assert first + second + third == newest_first
    assert listed(house.store, before=jobs[0]) == []


def test_a_page_is_not_moved_by_jobs_that_come_meanwhile(house: House) -> None:
    jobs = [house.submit() for _ in range(4)]
    first = listed(house.store, limit=2)
    house.submit()

    assert listed(house.store, limit=2, before=first[-1]) == [jobs[1], jobs[0]]


def test_jobs_are_listed_by_status(house: House) -> None:
    waiting = house.submit()
    running = house.running()
    partial = house.partial(house.running())
    done = house.completed()
    failed = house.fail(house.running())
    canceled = house.cancel(house.submit())
    by_status = {
        JobStatus.QUEUED: waiting,
        JobStatus.RUNNING: running,
        JobStatus.PARTIAL: partial,
        JobStatus.COMPLETED: done,
        JobStatus.FAILED: failed,
        JobStatus.CANCELED: canceled,
    }

    for status, job in by_status.items():
        assert listed(house.store, JobFilter(statuses=(status,))) == [job]
    ended = JobFilter(statuses=(JobStatus.COMPLETED, JobStatus.CANCELED, JobStatus.FAILED))
    assert listed(house.store, ended) == [canceled, failed, done]
    assert listed(house.store, JobFilter(statuses=(JobStatus.FAILED, JobStatus.FAILED))) == [failed]
    assert len(listed(house.store, JobFilter(statuses=tuple(JobStatus)))) == 6


def test_jobs_are_listed_by_analysis_label_and_time_all_at_once(house: House) -> None:
    house.submit(labels={"team": "plants", "run": "1"})
    wanted = house.submit(labels={"team": "plants", "run": "2"}, analysis="profile")
    house.submit(labels={"team": "animals", "run": "2"}, analysis="profile")
    at = house.now
    house.later(seconds=10)
    late = house.submit(labels={"team": "plants", "run": "2"}, analysis="profile")

    both = {"team": "plants", "run": "2"}
    assert listed(house.store, JobFilter(labels=both, analysis="profile")) == [late, wanted]
    assert listed(house.store, JobFilter(labels=both, created_before=at + timedelta(seconds=5))) == [wanted]
    assert listed(house.store, JobFilter(labels=both, created_after=at)) == [late]
    assert listed(house.store, JobFilter(labels={"team": "minerals"})) == []
    assert listed(house.store, JobFilter(labels={"": ""})) == []
    assert listed(house.store, JobFilter(labels={str(number): "" for number in range(1000)})) == []


@pytest.mark.parametrize(
    "key", ["a.b", 'quo"te', "per%cent", "dollar$", "[0]", "ключ", "space key", ":colon"]
)
def test_a_label_is_found_whatever_characters_its_key_has(house: House, key: str) -> None:
    job = house.submit(labels={key: "x' OR '1'='1"})
    house.submit(labels={"other": "x"})

    assert listed(house.store, JobFilter(labels={key: "x' OR '1'='1"})) == [job]
    assert listed(house.store, JobFilter(labels={key: "x"})) == []


def test_events_come_in_order_without_gaps_and_from_a_number_on(house: House) -> None:
    job = house.completed(payload={}, partials=2)

    events = house.store.read(lambda reader: reader.list_events(ALPHA, job.job_id, 0, 100))
    rest = house.store.read(lambda reader: reader.list_events(ALPHA, job.job_id, 2, 2))

    assert [event.event_seq for event in events] == list(range(1, job.event_seq + 1))
    assert [event.event_type for event in events] == [
        EventType.QUEUED,
        EventType.RUNNING,
        EventType.PARTIAL,
        EventType.PARTIAL,
        EventType.COMPLETED,
    ]
    assert rest == events[2:4]
    assert events[-1].payload == {"attempt": 1, "result_id": job.result_id}
    assert events[0].occurred_at == job.submitted_at


@pytest.mark.parametrize("after", [2**31 - 1, 2**31, 2**62, 2**63])
def test_behind_a_number_that_no_event_has_there_is_none(house: House, after: int) -> None:
    job = house.completed(payload={}, partials=1)

    assert house.store.read(lambda reader: reader.list_events(ALPHA, job.job_id, after, 9)) == []


def test_the_payload_of_an_event_keeps_unicode_and_numbers(house: House) -> None:
    job = house.progress(house.running(), 33.3, 'Stufe "1" 🌱\n')

    last = house.store.read(lambda reader: reader.list_events(ALPHA, job.job_id, 2, 1))[0]

    assert json.loads(json.dumps(dict(last.payload))) == {
        "attempt": 1,
        "progress_percent": 33.3,
        "stage": 'Stufe "1" 🌱\n',
    }


def test_attempts_are_kept_with_their_start_and_end(house: House) -> None:
    job = house.running()
    started = house.now
    house.later(seconds=5)
    house.release(job)
    house.later(seconds=5)
    (again,) = house.claim(worker="worker-b")
    house.later(seconds=2)
    house.complete(again)

    first, second = house.store.read(lambda reader: reader.list_attempts(ALPHA, job.job_id))

    assert (first.attempt, first.worker_id, str(first.outcome)) == (1, "worker-a", "released")
    assert (first.started_at, first.ended_at) == (started, started + timedelta(seconds=5))
    assert (second.attempt, second.worker_id, str(second.outcome)) == (2, "worker-b", "completed")
    assert second.ended_at == house.now


def test_the_log_of_an_attempt_is_replaced_by_a_later_one(house: House) -> None:
    job = house.running()

    house.store.write(lambda tx: tx.put_log(ALPHA, job.job_id, 1, "first line 🌱"))
    house.store.write(lambda tx: tx.put_log(ALPHA, job.job_id, 1, "all of it"))

    assert house.store.read(lambda reader: reader.find_log(ALPHA, job.job_id, 1)) == "all of it"
    assert house.store.read(lambda reader: reader.find_log(ALPHA, job.job_id, 2)) is None
    with pytest.raises(NotFoundError):
        house.store.write(lambda tx: tx.put_log(BETA, job.job_id, 1, "stranger"))


def test_waiting_jobs_are_counted_as_far_as_asked(house: House) -> None:
    house.submit_many(5)
    house.fail(house.running(), again=True, retry_after_seconds=60)
    house.running()
    house.completed()

    def count(at_most: int) -> int:
        return house.store.read(lambda reader: reader.count_queued(ALPHA, at_most))

    assert (count(100), count(6), count(3), count(0)) == (6, 6, 3, 0)


def test_recent_run_seconds_are_those_of_completed_attempts_newest_first(house: House) -> None:
    for seconds in (1.0, 2.0, 3.5):
        job = house.running()
        house.later(seconds=seconds)
        house.complete(job)
    slow = house.running()
    house.later(seconds=100)
    house.fail(slow)
    other = house.running(analysis="profile")
    house.later(seconds=50)
    house.complete(other)

    assert house.store.read(lambda reader: reader.recent_run_seconds("selftest", 2)) == [3.5, 2.0]
    assert house.store.read(lambda reader: reader.recent_run_seconds("profile", 9)) == [50.0]
    assert house.store.read(lambda reader: reader.recent_run_seconds("unknown", 9)) == []


def test_an_erased_job_leaves_nothing_behind(house: House) -> None:
    job = house.completed(payload={"big": "x" * 10_000}, partials=2)
    kept = house.completed()
    house.store.write(lambda tx: tx.put_log(ALPHA, job.job_id, 1, "output"))

    house.store.write(lambda tx: tx.erase_job(ALPHA, job.job_id))

    assert house.find(job) is None
    assert job.result_id is not None
    result_id = job.result_id
    assert house.store.read(lambda reader: reader.find_result(ALPHA, result_id)) is None
    assert house.store.read(lambda reader: reader.find_body(ALPHA, result_id)) is None
    assert house.store.read(lambda reader: reader.list_events(ALPHA, job.job_id, 0, 9)) == []
    assert house.store.read(lambda reader: reader.list_notifications(ALPHA, job.job_id, None, 9)) == []
    assert house.store.read(lambda reader: reader.list_attempts(ALPHA, job.job_id)) == []
    assert house.store.read(lambda reader: reader.find_log(ALPHA, job.job_id, 1)) is None
    assert house.store.read(lambda reader: reader.find_request(ALPHA, job.job_id)) is None
    assert house.find(kept) == kept
    assert house.violations() == []


def test_a_hold_survives_a_change_that_was_decided_before_it(house: House) -> None:
    job = house.running()
    house.store.write(lambda tx: tx.set_hold(ALPHA, job.job_id, True))

    house.complete(job)

    assert house.stored(job).held
    house.store.write(lambda tx: tx.set_hold(ALPHA, job.job_id, False))
    assert not house.stored(job).held
    with pytest.raises(NotFoundError):
        house.store.write(lambda tx: tx.set_hold(BETA, job.job_id, True))


def test_a_new_job_needs_its_request(house: House) -> None:
    change = house.submission(request=REQUEST)
    broken = type(change)(job=change.job, before=None, events=change.events)

    with pytest.raises(ValueError, match="request"):
        house.store.write(lambda tx: tx.save(broken))
    assert house.find(change.job) is None


def test_those_who_wait_learn_in_one_question_how_far_their_jobs_are(house: House) -> None:
    first, second = house.submit_many(2)
    (running,) = house.claim(1)
    unclaimed = first if running.job_id == second.job_id else second
    unknown = JobId("00000000-0000-7000-8000-ffffffffffff")

    seqs = house.store.read(lambda reader: reader.event_seqs([first.job_id, second.job_id, unknown]))

    assert seqs == {running.job_id: running.event_seq, unclaimed.job_id: unclaimed.event_seq}
    assert running.event_seq > unclaimed.event_seq
    assert house.store.read(lambda reader: reader.event_seqs([])) == {}
