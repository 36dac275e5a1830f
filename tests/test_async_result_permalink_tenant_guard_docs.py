"""The runbook on the result permalink: its command, and the guard around every tenant's data, as the page tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.docs.pages import code, without_fences
from tests.docs.runbook import ORG, PAGES, Operator, titled

PREREQUISITES, PERMALINK, STATUS = "Voraussetzungen", "1) ", "2) "
VIEW = "/analyze/results/{}?view=latest"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    one = Operator(tmp_path_factory.mktemp("permalink"), "--slots", "1")
    one.follow_section("de", PREREQUISITES)
    yield one
    one.close()


@pytest.mark.parametrize("language", sorted(PAGES))
def test_the_page_names_what_it_is_about(language: str) -> None:
    step = titled(language, PERMALINK)
    prerequisites = titled(language, {"de": "Voraussetzungen", "en": "Prerequisites"}[language])

    assert "/analyze/results/${RESULT_ID}?view=latest" in step.text
    assert {"200", "404", "result_id", "requested_result_id", "projection_mode"} <= set(
        code(without_fences(step.text))
    )
    assert {"X-Org-Id", "X-Tenant-Id"} <= set(code(without_fences(prerequisites.text)))


@pytest.mark.slow
def test_the_owner_reads_the_result_with_either_header(operator: Operator) -> None:
    told = operator.follow_section("de", PERMALINK)

    by_alias = operator.run(told.text.replace("X-Org-Id", "X-Tenant-Id"))

    assert by_alias.stdout == told.stdout
    assert json.loads(told.stdout)["result_id"] == operator.result_id


@pytest.mark.slow
@pytest.mark.parametrize("step", [PERMALINK, STATUS])
def test_no_command_of_the_page_shows_anything_to_another_tenant(operator: Operator, step: str) -> None:
    command = operator.follow_section("de", step).text.replace("${ORG_ID}", "someone-else")

    refused = operator.run(command)

    assert set(operator.statuses(command)) == {404}
    assert refused.exit_code == 22  # what curl -f says of an HTTP error
    assert refused.stdout == ""


@pytest.mark.slow
def test_a_foreign_result_and_an_unknown_one_are_the_same_404(operator: Operator) -> None:
    unknown = "0" * 8 + operator.result_id[8:]
    answers = {
        (whose, result_id): operator.ask(VIEW.format(result_id), org=whose)
        for whose, result_id in (
            ("someone-else", operator.result_id),
            ("someone-else", unknown),
            (ORG, unknown),
        )
    }

    told = set()
    for (_, result_id), answer in answers.items():
        body = answer.json()
        del body["request_id"]
        told.add((answer.status, json.dumps(body, sort_keys=True).replace(result_id, "ID")))

    assert {status for status, _ in told} == {404}
    assert len(told) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Org-Id": ORG, "X-Tenant-Id": "someone-else"},
        {"X-Org-Id": "not a tenant"},
        {"X-Tenant-Id": "x" * 129},
        {"X-Org-Id": ""},
    ],
    ids=["two that differ", "bad characters", "too long", "empty"],
)
def test_a_tenant_header_that_cannot_be_meant_is_refused(operator: Operator, headers: dict[str, str]) -> None:
    answer = operator.ask(VIEW.format(operator.result_id), org=None, headers=headers)

    assert answer.status == 400
    assert answer.json()["code"] == "bad_request"
    assert operator.result_id not in answer.json()["message"]
