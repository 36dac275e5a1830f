"""Every call to the kernel at which a commit can be killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.killpoints import CHANGES, COMMITS, PATHS, Sweep, Zygote, why_not, zygote


@pytest.fixture
def runs() -> Iterator[Zygote]:
    if reason := why_not():
        pytest.skip(reason)
    with zygote() as made:
        yield made


@pytest.mark.slow
def test_a_kill_at_any_write_or_sync_of_submit_and_complete_loses_nothing(
    runs: Zygote, tmp_path: Path, score: Score
) -> None:
    sweep = Sweep(runs, tmp_path)

    wrong = sweep.wrong(["submit", "submit-keyed", "complete"], COMMITS)

    print(*wrong, sep="\n")
    score("R3", "sqlite", len(wrong), cases=sweep.points)
    assert sweep.points >= 15


@pytest.mark.long
@pytest.mark.parametrize("name", PATHS)
def test_a_kill_at_any_call_that_changes_a_file_leaves_all_or_nothing(
    runs: Zygote, tmp_path: Path, name: str, score: Score
) -> None:
    sweep = Sweep(runs, tmp_path)

    wrong = sweep.wrong([name], CHANGES)

    print(*wrong, sep="\n")
    score("R3", "sqlite", len(wrong), cases=sweep.points)
    assert sweep.points >= 2
