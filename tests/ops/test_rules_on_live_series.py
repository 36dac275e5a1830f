"""The rules, fed with what a live server told of itself: while it was well, while it was broken, and when mended."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.ops.promtool import RULES, promtool, series, write
from tests.system.live import CHECKOUT, DEADLINE_SECONDS, LiveServer, eventually

pytestmark = pytest.mark.slow

# Each exposition is seen every 15 s for six minutes: longer than the window of the 5xx rate.
STEP_SECONDS, REPEAT = 15, 24
STAGES = ("started", "well", "broken", "mended")
READS, FAILED_READS = 80, 20
# Of the machine that runs the tests, not of the service.
FIRING = (
    'count by (alertname) (ALERTS{alertstate="firing", alertname!~"AsyncStore.*Full.*|AsyncStoreFillsUp"})'
)


@dataclass
class Scraped:
    """Expositions by stage."""

    texts: dict[str, str]

    def at(self, stage: str) -> str:
        """The time in promtool's world at which a stage, and what led to it, fill the window of five minutes."""
        return f"{STAGES.index(stage) * REPEAT * STEP_SECONDS + 240}s"

    def growth(self, name: str, before: str, after: str, **labels: str) -> float:
        """By how much a counter grew between two stages."""
        return total(self.texts[after], name, **labels) - total(self.texts[before], name, **labels)


def total(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of one name."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found, f"{name} {labels} is not in the exposition"
    return sum(found)


@contextmanager
def by_hand(server: LiveServer) -> Iterator[sqlite3.Connection]:
    """One transaction on the store of a live server."""
    path = server.store_file.with_name("store.v1.sqlite3")
    with closing(sqlite3.connect(path, timeout=30)) as store, store:
        yield store


def scrape(server: LiveServer, until: Callable[[str], bool]) -> str:
    """The exposition, once it shows what happened; what is asked of the store is kept for some seconds."""

    def look() -> str:
        answer = server.ask("GET", "/metrics")
        assert answer.status == 200
        text = answer.body.decode()
        return text if until(text) else ""

    found: str = eventually(look, "the metrics do not show what happened")
    return found


def clean_up(server: LiveServer, results_ttl: str) -> int:
    """The exit code of the script."""
    options = ("--store-file", str(server.store_file), "--results-ttl-seconds", results_ttl)
    return subprocess.run(
        [str(CHECKOUT / "scripts/run_async_retention_cleanup.py"), *options],
        cwd=server.folder,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    ).returncode


def shows(name: str, value: float) -> Callable[[str], bool]:
    """Whether an exposition has a value."""
    return lambda text: f"\n{name} {value}\n" in text


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    server = LiveServer(tmp_path_factory.mktemp("scraped"), "--slots", "1").start()
    try:
        yield Scraped(dict(zip(STAGES, told(server), strict=True)))
    finally:
        server.stop()


def told(server: LiveServer) -> Iterator[str]:
    """What the server says of itself in each of the stages."""
    without_in_app = "async_notifications_terminal_jobs_without_in_app_10m"
    exit_code = "async_retention_cleanup_exit_code"
    yield scrape(server, lambda text: True)

    job = server.ended(server.submit(stages=1, stage_seconds=0))
    permalink = f"/analyze/results/{job['result_id']}"
    assert {server.ask("GET", permalink).status for _ in range(READS)} == {200}
    assert clean_up(server, "604800") == 0
    yield scrape(server, shows(exit_code, 0.0))

    with by_hand(server) as store:
        store.execute("ALTER TABLE results RENAME TO away")
    assert {server.ask("GET", permalink).status for _ in range(FAILED_READS)} == {503}
    with by_hand(server) as store:
        store.execute("ALTER TABLE away RENAME TO results")
    assert {server.ask("GET", permalink).status for _ in range(READS)} == {200}
    with by_hand(server) as store:
        lost = store.execute("SELECT * FROM notifications").fetchall()
        store.execute("DELETE FROM notifications")
        store.execute("UPDATE jobs SET finished_at = finished_at - 660000000")
    assert clean_up(server, "-1") == 1
    yield scrape(server, lambda text: shows(without_in_app, 1.0)(text) and shows(exit_code, 1.0)(text))

    with by_hand(server) as store:
        places = ", ".join("?" * len(lost[0]))
        store.executemany(f"INSERT INTO notifications VALUES ({places})", lost)
    assert clean_up(server, "604800") == 0
    assert {server.ask("GET", permalink).status for _ in range(READS)} == {200}
    yield scrape(server, lambda text: shows(without_in_app, 0.0)(text) and shows(exit_code, 0.0)(text))


def asked(tmp_path: Path, scraped: Scraped, *queries: dict[str, Any]) -> str:
    """What promtool has against the queries; empty if nothing."""
    test = {
        "interval": f"{STEP_SECONDS}s",
        "input_series": series([scraped.texts[stage] for stage in STAGES], repeat=REPEAT),
        "promql_expr_test": list(queries),
    }
    path = write(
        tmp_path / "live.test.yml",
        {"rule_files": [str(RULES)], "evaluation_interval": f"{STEP_SECONDS}s", "tests": [test]},
    )
    said = promtool("test", "rules", str(path))
    return "" if said.ok else said.text


def firing(scraped: Scraped, stage: str, *names: str) -> dict[str, Any]:
    """The query that is right if exactly these alerts fire at a stage."""
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names]
    return {"expr": FIRING, "eval_time": scraped.at(stage), "exp_samples": samples}


def near(scraped: Scraped, stage: str, name: str, value: float) -> dict[str, Any]:
    """The query that is right if a recorded signal has a value, but for rounding."""
    return {
        "expr": f"abs({name} - {value!r}) < bool 1e-9",
        "eval_time": scraped.at(stage),
        "exp_samples": [{"labels": '{job="async-delivery"}', "value": 1}],
    }


@pytest.mark.parametrize("stage", STAGES)
def test_promtool_has_nothing_against_what_a_live_server_exposes(scraped: Scraped, stage: str) -> None:
    said = promtool("check", "metrics", stdin=scraped.texts[stage])

    assert (said.ok, said.text) == (True, "")


def test_alerts_fire_while_it_is_broken_and_only_then(scraped: Scraped, tmp_path: Path) -> None:
    said = asked(
        tmp_path,
        scraped,
        firing(scraped, "started"),
        firing(scraped, "well"),
        firing(
            scraped,
            "broken",
            "AsyncResultPermalink5xxRateWarning",
            "AsyncResultPermalink5xxRateCritical",
            "AsyncRetentionCleanupFailed",
            "AsyncTerminalJobsWithoutInApp",
        ),
        firing(scraped, "mended"),
    )

    assert said == ""


def test_the_recorded_rate_is_the_share_of_the_answers_that_were_counted(
    scraped: Scraped, tmp_path: Path
) -> None:
    name = "async_result_permalink_requests_total"
    failed = scraped.growth(name, "well", "broken", status_class="5xx")
    answers = scraped.growth(name, "well", "broken")

    assert (failed, answers) == (FAILED_READS, FAILED_READS + READS)
    rate = "async_result_permalink_http_5xx_rate_5m"
    said = asked(
        tmp_path,
        scraped,
        near(scraped, "well", rate, 0.0),
        near(scraped, "broken", rate, failed / answers),
        near(scraped, "mended", rate, 0.0),
    )
    assert said == ""


def test_the_recorded_p95_is_below_what_the_slowest_answer_took(scraped: Scraped, tmp_path: Path) -> None:
    seconds = "async_result_permalink_seconds"
    slowest = min(
        float(sample.labels["le"])
        for family in text_string_to_metric_families(scraped.texts["well"])
        for sample in family.samples
        if sample.name == f"{seconds}_bucket"
        and sample.value == total(scraped.texts["well"], f"{seconds}_count")
    )
    query = {
        "expr": f"(async_result_permalink_p95_ms_15m > 0) <= bool {1000 * slowest!r}",
        "eval_time": scraped.at("well"),
        "exp_samples": [{"labels": '{job="async-delivery"}', "value": 1}],
    }

    assert asked(tmp_path, scraped, query) == ""


def test_a_wrong_expectation_would_be_noticed(scraped: Scraped, tmp_path: Path) -> None:
    assert "AsyncRetentionCleanupFailed" in asked(tmp_path, scraped, firing(scraped, "broken"))
    assert "FAILED" in asked(
        tmp_path, scraped, near(scraped, "broken", "async_result_permalink_p95_ms_15m", -1.0)
    )
