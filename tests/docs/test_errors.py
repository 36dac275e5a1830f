"""docs/reference/errors.md and the code know the same codes, with the same HTTP status."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from dataclasses import replace

import async_delivery
from async_delivery.analyses.selftest import selftest
from async_delivery.api.errors import KINDS
from async_delivery.domain import lifecycle
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.failure import FailureCode
from async_delivery.worker import ending
from async_delivery.worker.attempt import StopReason
from async_delivery.worker.forkserver import ExitStatus
from async_delivery.worker.limits import TOO_MANY_PARTIALS
from tests.docs.pages import code, fences, read, rows, section
from tests.domain.support import NOON, ids, running_job

PAGE = "docs/reference/errors.md"
# Made by the service for what an analysis did; the domain has no word for it, as no decision hangs on it.
MORE_FAILURES = {TOO_MANY_PARTIALS}


def kinds_of_error() -> Iterator[type[AsyncDeliveryError]]:
    """Every class of the family, from every module of the package."""
    for module in pkgutil.walk_packages(async_delivery.__path__, "async_delivery."):
        if not module.name.endswith("__main__") and ".migrations." not in module.name:
            importlib.import_module(module.name)
    found = [AsyncDeliveryError]
    while found:
        kind = found.pop()
        if kind.__module__.startswith("async_delivery."):
            yield kind
        found.extend(kind.__subclasses__())


def codes(heading: str) -> list[str]:
    """The first column under a heading, in order."""
    return [code(row[0])[0] for row in rows(section(read(PAGE), heading))]


def test_every_code_that_becomes_an_answer_is_listed_with_its_status() -> None:
    listed = {code(row[0])[0]: int(row[1]) for row in rows(section(read(PAGE), "Refused requests"))}

    assert listed == {name: kind.status for name, kind in KINDS.items()}


def test_every_code_of_the_error_family_is_listed_and_no_other() -> None:
    raised = {kind.code for kind in kinds_of_error()}
    # A result that has no JSON form fails its job; the code is listed there.
    inside = set(codes("Errors that are not answers")) | {FailureCode.RESULT_NOT_SERIALIZABLE.value}

    assert set(KINDS) & inside == set()
    assert raised <= set(KINDS) | inside
    assert inside <= raised


def test_every_code_of_a_failed_job_is_listed_and_no_other() -> None:
    assert set(codes("Failed jobs")) == {code.value for code in FailureCode} | MORE_FAILURES


def test_what_is_retryable_and_what_is_tried_again_is_as_listed() -> None:
    info, (job, _) = selftest.info(), running_job()
    endings = [
        ending.of_stop(StopReason.TIMEOUT, job, info),
        ending.of_exit(ExitStatus(-11), info),
        ending.of_exit(ExitStatus(0), info),
        ending.out_of_memory(info),
        ending.of_too_large("result", 2, 1),
        ending.of_too_many_partials(),
    ]
    reasons = {each.reason.code: each.reason.retryable for each in endings if each.reason}
    lost = lifecycle.rescue(replace(job, attempt=lifecycle.MAX_STARTS), NOON, ids()).job.error
    assert lost
    reasons[lost.code] = lost.retryable

    table = rows(section(read(PAGE), "Failed jobs"))
    listed = {code(row[0])[0]: row[3] == "yes" for row in table if code(row[0])[0] in reasons}

    assert listed == reasons
    assert {each.reason.code for each in endings if each.reason and each.again} == {"worker_crashed"}


def test_no_code_is_listed_twice() -> None:
    for heading in ("Refused requests", "Errors that are not answers", "Failed jobs"):
        assert len(codes(heading)) == len(set(codes(heading)))


def test_the_example_body_is_one_that_the_service_would_send() -> None:
    (example,) = [json.loads(each.text) for each in fences(read(PAGE)) if each.language == "json"]
    kind = KINDS[example["code"]]

    assert example["error"] == example["code"]
    assert (example["status"], example["title"]) == (kind.status, kind.title)
    assert example["type"] == f"urn:async-delivery:error:{example['code']}"
