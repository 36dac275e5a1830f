"""The runbook on in-app notifications: its commands, and what it says of the records and their signal."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from async_delivery.domain.job import JobStatus
from async_delivery.domain.signal import WITHOUT_IN_APP
from tests.docs.pages import code, rows, without_fences
from tests.docs.runbook import ORG, PAGES, Operator, titled
from tests.docs.runbook_checks import ended_jobs

PREREQUISITES, STATUS = "Voraussetzungen", "2) "
MONITORING = {"de": "Monitoring", "en": "Minimum monitoring"}
TERMINAL = sorted(status.value for status in JobStatus if status.terminal)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    one = Operator(tmp_path_factory.mktemp("notifications"), "--slots", "1")
    one.follow_section("de", PREREQUISITES)
    yield one
    one.close()


@pytest.mark.parametrize("language", sorted(PAGES))
def test_the_page_names_what_it_is_about(language: str) -> None:
    step = titled(language, STATUS).text

    assert "/analyze/jobs/${JOB_ID}/notifications?channel=in_app&limit=20" in step
    assert {"status", "result_id", "notifications"} <= set(code(without_fences(step)))


@pytest.mark.parametrize("language", sorted(PAGES))
def test_the_page_counts_every_terminal_state(language: str) -> None:
    step = titled(language, STATUS).text
    (hint,) = [
        row[3] for row in rows(titled(language, MONITORING[language]).text) if WITHOUT_IN_APP.name in row[0]
    ]

    assert [sorted(each.split("|")) for each in code(without_fences(step)) if "|" in each] == [TERMINAL]
    assert sorted(re.findall(r"`async\.job\.(\w+)`", hint)) == TERMINAL


@pytest.mark.slow
def test_each_way_a_job_can_end_leaves_one_notification_of_its_own(operator: Operator) -> None:
    seen = set()

    for status, job_id in ended_jobs(operator).items():
        (told,) = operator.ask(f"/analyze/jobs/{job_id}/notifications?channel=in_app").json()["notifications"]
        assert told["template_key"] == f"async.job.{status}"
        assert told["payload_json"]["job_id"] == job_id
        assert told["payload_json"]["status"] == status
        assert told["dedupe_key"] == f"{job_id}:in_app:async.job.{status}"
        seen.add(told["dedupe_key"])

    assert len(seen) == len(TERMINAL)


@pytest.mark.slow
def test_reading_changes_nothing(operator: Operator) -> None:
    told = operator.follow_section("de", STATUS)

    again = operator.run(told.text)

    first, second = told.documents()[1], again.documents()[1]
    assert first["notifications"] == second["notifications"] != []


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "status"), [(1, 200), (20, 200), (200, 200), (0, 400), (201, 400)])
def test_the_limit_of_the_command_is_one_of_those_allowed(
    operator: Operator, limit: int, status: int
) -> None:
    command = operator.follow_section("de", STATUS).text.replace("limit=20", f"limit={limit}")

    assert operator.statuses(command) == [200, status]


@pytest.mark.slow
def test_an_unknown_channel_is_refused(operator: Operator) -> None:
    answer = operator.ask(f"/analyze/jobs/{operator.job_id}/notifications?channel=pigeon", org=ORG)

    assert answer.status == 400
