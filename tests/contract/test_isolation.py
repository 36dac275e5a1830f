"""Every method that takes a tenant, asked by another one: the same answer as for what does not exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from async_delivery.domain import lifecycle
from async_delivery.domain.errors import LeaseLostError, NotFoundError
from async_delivery.domain.job import JobId, ResultId
from async_delivery.storage.contract import JobFilter, Reader
from tests.contract.support import ALPHA, BETA, House

UNKNOWN = "99999999-0000-7000-8000-000000000000"

QUESTIONS: dict[str, Callable[[Reader, str, str], Any]] = {
    "find_job": lambda reader, job_id, _: reader.find_job(BETA, JobId(job_id)),
    "find_request": lambda reader, job_id, _: reader.find_request(BETA, JobId(job_id)),
    "list_jobs": lambda reader, _, __: reader.list_jobs(BETA, JobFilter(), 50, None),
    "list_events": lambda reader, job_id, _: reader.list_events(BETA, JobId(job_id), 0, 50),
    "list_attempts": lambda reader, job_id, _: reader.list_attempts(BETA, JobId(job_id)),
    "find_log": lambda reader, job_id, _: reader.find_log(BETA, JobId(job_id), 1),
    "find_result": lambda reader, _, result_id: reader.find_result(BETA, ResultId(result_id)),
    "newest_result": lambda reader, job_id, _: reader.newest_result(BETA, JobId(job_id)),
    "list_results": lambda reader, job_id, _: reader.list_results(BETA, JobId(job_id)),
    "find_body": lambda reader, _, result_id: reader.find_body(BETA, ResultId(result_id)),
    "list_notifications": lambda reader, job_id, _: reader.list_notifications(BETA, JobId(job_id), None, 50),
    "count_queued": lambda reader, _, __: reader.count_queued(BETA, 50),
}
ACTIONS: dict[str, Callable[..., Any]] = {
    "lock_job": lambda tx, job_id: tx.lock_job(BETA, job_id),
    "put_log": lambda tx, job_id: tx.put_log(BETA, job_id, 1, "x"),
    "set_hold": lambda tx, job_id: tx.set_hold(BETA, job_id, True),
}


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_a_question_of_another_tenant_finds_what_is_not_there(house: House, name: str) -> None:
    job = house.completed(partials=1)
    house.submit()
    house.store.write(lambda tx: tx.put_log(ALPHA, job.job_id, 1, "output"))
    ask = QUESTIONS[name]

    theirs = house.store.read(lambda reader: ask(reader, job.job_id, str(job.result_id)))
    nothing = house.store.read(lambda reader: ask(reader, UNKNOWN, UNKNOWN))

    assert theirs == nothing
    assert not theirs


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_an_action_of_another_tenant_meets_what_is_not_there(house: House, name: str) -> None:
    job = house.completed()
    act = ACTIONS[name]
    said = []

    for job_id in (job.job_id, JobId(UNKNOWN)):
        with pytest.raises(NotFoundError) as caught:
            house.store.write(partial(act, job_id=job_id))
        said.append(str(caught.value))

    assert said[0] == said[1]
    assert house.stored(job) == job


def test_another_tenant_can_neither_erase_nor_change_a_job(house: House) -> None:
    job = house.submit()
    house.store.write(lambda tx: tx.erase_job(BETA, job.job_id))
    stolen = replace(job, org_id=BETA)
    change = lifecycle.request_cancel(stolen, "thief", None, house.now, house.new_id)
    assert change is not None

    with pytest.raises(LeaseLostError):
        house.store.write(lambda tx: tx.save(change))

    assert house.stored(job) == job
    assert house.violations() == []
