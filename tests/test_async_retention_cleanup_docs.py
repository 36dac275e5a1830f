"""The runbook on retention: the cleanup script as the page calls it, its artefact, and its exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from async_delivery.domain.retention import (
    DEFAULT_EVENTS_TTL_SECONDS,
    DEFAULT_RESULTS_TTL_SECONDS,
    ExitCode,
)
from tests.docs.pages import code, read, without_fences
from tests.docs.runbook import ORG, PAGES, Operator, titled
from tests.docs.runbook_checks import a_running_job, is_whole, with_ttls_of_zero

PREREQUISITES, DRY_RUN, LIVE = "Voraussetzungen", "3) ", "4) "
COUNTS = {"delete_count", "kept_count", "skipped_missing_timestamp"}


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    one = Operator(tmp_path, "--slots", "1")
    one.follow_section("de", PREREQUISITES)
    yield one
    one.close()


@pytest.mark.parametrize("language", sorted(PAGES))
@pytest.mark.parametrize("step", [DRY_RUN, LIVE])
def test_the_page_cleans_up_by_the_default_rule(language: str, step: str) -> None:
    text = titled(language, step).text

    assert f"--results-ttl-seconds {DEFAULT_RESULTS_TTL_SECONDS} " in text
    assert f"--events-ttl-seconds {DEFAULT_EVENTS_TTL_SECONDS} " in text
    assert "--store-file runtime/async_jobs/store.v1.json" in text
    assert ("--dry-run" in text) is (step == DRY_RUN)


@pytest.mark.parametrize("language", sorted(PAGES))
def test_the_page_tells_every_exit_code(language: str) -> None:
    (line,) = [each for each in titled(language, LIVE).text.split("\n") if each.startswith("Exit")]

    assert [int(each) for each in code(line)] == sorted(ExitCode)


@pytest.mark.parametrize("language", sorted(PAGES))
def test_the_page_names_what_an_artefact_is_judged_by(language: str) -> None:
    named = set(re.findall(r"\w+", " ".join(code(without_fences(read(PAGES[language]))))))

    assert COUNTS | {"terminal_job_count"} <= named


@pytest.mark.slow
def test_a_dry_run_counts_what_the_live_run_deletes_and_a_second_run_deletes_nothing(
    operator: Operator,
) -> None:
    dry, live = operator.follow_section("de", DRY_RUN), operator.follow_section("de", LIVE)
    with a_running_job(operator) as running:
        counted = json.loads(operator.run(with_ttls_of_zero(dry.text)).stdout)
        done = json.loads(operator.run(with_ttls_of_zero(live.text)).stdout)
        again = json.loads(operator.run(with_ttls_of_zero(live.text)).stdout)

        assert is_whole(operator, running)

    for section in ("results", "events"):
        assert counted[section]["delete_count"] == done[section]["delete_count"] > 0
        assert again[section]["delete_count"] == 0
        assert set(done[section]) >= COUNTS
    assert operator.artefact("retention-live.json") == again
    assert operator.ask(f"/analyze/results/{operator.result_id}").status == 410
    assert operator.server.job(operator.job_id, org=ORG)["status"] == "completed"


@pytest.mark.slow
def test_each_exit_code_means_what_the_page_says(operator: Operator) -> None:
    live = operator.follow_section("de", LIVE)
    assert live.exit_code == ExitCode.DONE

    refused = operator.run(live.text.replace("604800", "-1"))
    elsewhere = operator.run(live.text.replace("store.v1.json", "nothing.json"))

    assert refused.exit_code == elsewhere.exit_code == ExitCode.REFUSED
    assert "Traceback" not in refused.stderr + elsewhere.stderr
    assert operator.ask(f"/analyze/results/{operator.result_id}").status == 200


@pytest.mark.slow
def test_a_pause_holds_for_live_runs_until_it_is_lifted(operator: Operator) -> None:
    dry, live = operator.follow_section("de", DRY_RUN), operator.follow_section("de", LIVE)
    assert operator.run('async-delivery cleanup pause --why "the tests want it"').exit_code == 0

    paused = operator.run(with_ttls_of_zero(live.text))

    assert paused.exit_code == ExitCode.BUSY
    assert "the tests want it" in paused.stderr
    assert operator.ask(f"/analyze/results/{operator.result_id}").status == 200
    assert operator.run(with_ttls_of_zero(dry.text)).exit_code == 0
    assert operator.run("async-delivery cleanup resume").exit_code == 0
    assert operator.run(with_ttls_of_zero(live.text)).exit_code == 0
    assert operator.ask(f"/analyze/results/{operator.result_id}").status == 410
