from __future__ import annotations

from async_delivery.domain.job import ResultId
from async_delivery.domain.notification import Channel
from async_delivery.domain.result import ResultKind, seal
from tests.contract.support import ALPHA, BETA, House


def test_a_body_comes_back_byte_by_byte(house: House) -> None:
    payload = {"text": 'Zeichen: äß 🌱 \u2028 "quoted"', "numbers": [0.1, -1, 1e300], "none": None}
    job = house.completed(payload=payload)
    assert job.result_id is not None
    result_id = job.result_id

    found = house.store.read(lambda reader: reader.find_result(ALPHA, result_id))
    body = house.store.read(lambda reader: reader.find_body(ALPHA, result_id))

    assert body == seal(payload).data
    assert found is not None
    result = found.result
    assert (found.job_ended, found.correlation_id) == (True, job.correlation_id)
    assert (result.sha256, result.size_bytes) == (seal(payload).sha256, len(seal(payload).data))


def test_a_body_of_twenty_megabytes_is_kept(house: House) -> None:
    text = "0123456789" * 2_000_000
    job = house.completed(payload=text)
    assert job.result_id is not None
    result_id = job.result_id

    body = house.store.read(lambda reader: reader.find_body(ALPHA, result_id))

    assert body == seal(text).data
    assert house.violations() == []


def test_results_are_listed_in_order_and_the_newest_is_the_final_one(house: House) -> None:
    job = house.running()
    assert house.store.read(lambda reader: reader.newest_result(ALPHA, job.job_id)) is None
    job = house.partial(job, 1)
    job = house.partial(job, 2)
    newest = house.store.read(lambda reader: reader.newest_result(ALPHA, job.job_id))
    assert newest is not None
    assert (newest.result_id, newest.result_kind) == (job.result_id, ResultKind.PARTIAL)

    done = house.complete(job, 3)

    results = house.store.read(lambda reader: reader.list_results(ALPHA, job.job_id))
    assert [(one.result_seq, str(one.result_kind)) for one in results] == [
        (1, "partial"),
        (2, "partial"),
        (3, "final"),
    ]
    newest = house.store.read(lambda reader: reader.newest_result(ALPHA, job.job_id))
    assert newest == results[-1]
    assert newest.result_id == done.result_id


def test_a_partial_result_says_that_its_job_still_runs(house: House) -> None:
    job = house.partial(house.running(), 1)
    assert job.result_id is not None
    result_id = job.result_id

    found = house.store.read(lambda reader: reader.find_result(ALPHA, result_id))

    assert found is not None
    assert not found.job_ended


def test_numbers_of_results_go_on_over_attempts(house: House) -> None:
    job = house.partial(house.running(), "first attempt")
    house.release(job)
    (again,) = house.claim(worker="worker-b")
    house.complete(again, "second attempt")

    results = house.store.read(lambda reader: reader.list_results(ALPHA, job.job_id))

    assert [(one.attempt, one.result_seq) for one in results] == [(1, 1), (2, 2)]
    assert house.violations() == []


def test_what_is_not_there_is_none(house: House) -> None:
    nothing = ResultId("00000000-0000-7000-8000-000000000000")

    assert house.store.read(lambda reader: reader.find_result(ALPHA, nothing)) is None
    assert house.store.read(lambda reader: reader.find_body(ALPHA, nothing)) is None
    assert house.store.read(lambda reader: reader.list_results(ALPHA, house.fresh().job_id)) == []


def test_notifications_are_listed_by_channel(house: House) -> None:
    job = house.completed()

    def listed(channel: Channel | None, limit: int = 9) -> int:
        return len(
            house.store.read(lambda reader: reader.list_notifications(ALPHA, job.job_id, channel, limit))
        )

    assert (listed(None), listed(Channel.IN_APP), listed(Channel.WEBHOOK), listed(None, limit=0)) == (
        1,
        1,
        0,
        0,
    )
    assert house.store.read(lambda reader: reader.list_notifications(BETA, job.job_id, None, 9)) == []
