"""Power cuts: what was acknowledged is there, whatever of the rest had reached the disk."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.power import compiler, images, notes_of, record, same_as_replayed
from tests.reliability.power_judge import Verdict, judge

IMAGES = 300


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder for images, in memory where there is any: thousands are written and read once."""
    if compiler() is None:
        pytest.skip("power cuts need a C compiler")
    shared = Path("/dev/shm")
    folder = (
        shared / f"power-{tmp_path.name}-{random.randrange(10**9)}" if shared.is_dir() else tmp_path / "m"
    )
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def cut_and_judge(folder: Path, seed: int, steps: int, wanted: int, *pragmas: str) -> Verdict:
    disk, log = record(folder, seed, steps, *pragmas)
    verdict = Verdict()
    count = 0
    for cut in images(disk, log, folder / "image", wanted, random.Random(seed)):
        judge(cut, verdict)
        count += 1
    assert count == wanted
    return verdict


@pytest.mark.slow
def test_a_power_cut_loses_nothing_that_was_acknowledged(memory: Path, score: Score, seed: int) -> None:
    # The log is worked into the database every 20 pages, so that many cuts fall into that.
    verdict = cut_and_judge(memory, seed, 80, IMAGES, "wal_autocheckpoint=20")

    print(*verdict.lost[:10], *verdict.corrupt[:10], sep="\n")
    score("R4.lost", "sqlite", len(verdict.lost), cases=IMAGES, seed=seed)
    score("R4.corrupt", "sqlite", len(verdict.corrupt), cases=IMAGES, seed=seed)


@pytest.mark.slow
def test_the_power_cuts_would_notice_commits_that_are_not_synced(memory: Path, seed: int) -> None:
    verdict = cut_and_judge(memory, seed, 40, 50, "wal_autocheckpoint=20", "synchronous=NORMAL")

    assert verdict.lost


@pytest.mark.slow
def test_the_notes_of_a_load_say_exactly_what_is_on_the_disk(memory: Path, seed: int) -> None:
    disk, log = record(memory, seed, 80)

    assert same_as_replayed(disk, log, memory / "replayed") == []
    assert {note.kind for note in notes_of(log)} >= set("CWTSDULMA")


@pytest.mark.long
@pytest.mark.parametrize("checkpoint", [10, 20, 100, 1000])
def test_ten_thousand_power_cuts_lose_nothing_that_was_acknowledged(
    memory: Path, score: Score, seed: int, checkpoint: int
) -> None:
    wrong = Verdict()
    for number in range(5):
        folder = memory / str(number)
        folder.mkdir()
        verdict = cut_and_judge(folder, seed + number, 150, 500, f"wal_autocheckpoint={checkpoint}")
        wrong.lost += verdict.lost
        wrong.corrupt += verdict.corrupt
        shutil.rmtree(folder)

    print(*wrong.lost[:10], *wrong.corrupt[:10], sep="\n")
    score("R4.lost", "sqlite", len(wrong.lost), cases=2500, seed=seed)
    score("R4.corrupt", "sqlite", len(wrong.corrupt), cases=2500, seed=seed)
