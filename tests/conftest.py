"""What holds for every test, whatever its floor. Fixtures live beside the tests that use them."""

import os
import sys
from collections.abc import Generator

import pytest

from tests.reliability.summary import Summary

# Servers that tests start would each put aside the usual 64 MiB of the disk.
os.environ.setdefault("ASYNC_DELIVERY_BALLAST_BYTES", "1MiB")

CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scorecard", metavar="FILE", help="where to write the reliability scorecard as JSON")


def pytest_configure(config: pytest.Config) -> None:
    # A worker's reports go to the process that started it, which sums up.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Summary(), "reliability-summary")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one in CI: without its PostgreSQL a run must not look green."""
    report = yield
    # An expected failure is reported as skipped too, and did run.
    if report.skipped and not hasattr(report, "wasxfail"):
        _fail_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself, as pytest.importorskip does."""
    report = yield
    if report.skipped:
        _fail_in_ci(report)
    return report


def _fail_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    if CI:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} did not run, and in CI every test runs. {reason}"


def pytest_sessionfinish() -> None:
    """Stop the PostgreSQL that tests have shared, if they have."""
    if "tests.postgres" in sys.modules:
        sys.modules["tests.postgres"].close_shared_server()
