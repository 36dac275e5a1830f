"""docs/howto/monitor.md: its commands work as they are written, and its sections are where the alerts lead."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, fences, read
from tests.docs.runbook import SHELLS, Operator

PAGE = "docs/howto/monitor.md"


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    one = Operator(tmp_path, "--slots", "1")
    # What the signals are judged by.
    for start in ("Voraussetzungen", "1) ", "4) "):
        one.follow_section("de", start)
    yield one
    one.close()


@pytest.mark.slow
def test_the_commands_of_the_page_work_as_they_are_written(operator: Operator) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on the PATH: apt-get install prometheus")
    blocks = [block for block in fences(read(PAGE)) if block.language in SHELLS]

    for block in blocks:
        ran = operator.run(block.text)
        assert ran.exit_code == 0, f"line {block.line}: {ran}"

    assert len(blocks) >= 2
