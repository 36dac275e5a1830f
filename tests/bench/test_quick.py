"""The comparison of two states of the code: a ratio the wrong way round would praise what is slower."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import quick
from bench.load import LoadError
from bench.server import ROOT


def compared(before: list[float], now: list[float]) -> tuple[str, ...]:
    return quick.Comparison(
        "submits", quick.Series([100.0] * len(before), before), quick.Series([150.0] * len(now), now)
    ).row()


def test_ratios_are_of_now_over_before_within_each_round() -> None:
    # The machine was ten times slower in the second round, for both.
    row = compared([100.0, 1000.0, 100.0], [50.0, 500.0, 60.0])

    assert row == (
        "submits",
        "100 µs (100\u20131,000)",
        "60.0 µs (50.0\u2013500)",
        "0.50 \u00d7 (0.50\u20130.60)",
        "100 /s",
        "150 /s",
        "1.50 \u00d7",
    )


def test_rounds_that_one_side_missed_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        compared([1.0, 2.0], [1.0])


def test_a_commit_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no commit 'nowhere'"):
        quick._copy_of_commit("nowhere", tmp_path / "before")


def test_what_is_compared_with_is_the_commit_and_not_the_working_tree(tmp_path: Path) -> None:
    name = "src/async_delivery/__init__.py"
    try:
        kept = subprocess.run(
            ["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout")

    quick._copy_of_commit("HEAD", tmp_path / "before")

    assert (tmp_path / "before" / name).read_bytes() == kept
    assert not (tmp_path / "before" / "tests").exists()
