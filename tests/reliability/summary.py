"""The scorecard at the end of a run, also of one whose tests run in worker processes.

A test's measurements travel in its report as user properties, so what a worker has reported stays even if that worker
dies afterwards. ``tests/conftest.py`` registers this, because a process that only hands out tests to workers never
reads the conftest of this folder.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.reliability.scorecard import Measurement, Scorecard, write_json

FOLDER = Path(__file__).resolve().parents[2] / ".scorecard"
PROPERTY = "scorecard"


def attach(item: pytest.Item, one: Measurement) -> None:
    """Send ``one`` with the reports of ``item`` to whoever sums up."""
    item.user_properties.append((PROPERTY, asdict(one)))


class Summary:
    """Gathers measurements from reports, and shows and writes them at the end."""

    def __init__(self) -> None:
        self._card = Scorecard()
        self._seen: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = [value for name, value in report.user_properties if name == PROPERTY]
        # The report of the teardown repeats what that of the call has said.
        for value in found[self._seen[report.nodeid] :]:
            assert isinstance(value, dict)
            self._card.record(Measurement(**value))
        self._seen[report.nodeid] = max(self._seen[report.nodeid], len(found))

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        chosen: str | None = config.getoption("scorecard")
        if not self._card and not chosen:
            return
        terminalreporter.section("reliability scorecard")
        for line in self._card.lines():
            terminalreporter.write_line(line)
        if chosen:
            write_json(Path(chosen), self._card.as_json())
            written = [Path(chosen)]
        else:
            written = self._card.write(FOLDER)
        terminalreporter.write_line(f"written to {', '.join(map(str, written))}")
