"""A disk that fails at one call: reads, writes and syncs of a store under load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.killpoints import Sweep, Zygote, synced_again, why_not, zygote


@pytest.fixture
def runs() -> Iterator[Zygote]:
    if reason := why_not():
        pytest.skip(reason)
    with zygote() as made:
        yield made


@pytest.mark.slow
def test_a_sync_that_fails_is_never_acknowledged_and_never_tried_again(runs: Zygote, tmp_path: Path) -> None:
    sweep = Sweep(runs, tmp_path)

    wrong = sweep.wrong_after("stubborn", "EIO", ["fdatasync"])

    assert wrong == []
    assert sweep.points >= 6


@pytest.mark.slow
def test_a_write_or_read_that_fails_loses_nothing_that_was_acknowledged(runs: Zygote, tmp_path: Path) -> None:
    sweep = Sweep(runs, tmp_path)

    wrong = sweep.wrong_after("stubborn", "EIO", ["pwrite64"], every=19)
    wrong += sweep.wrong_after("stubborn", "ENOSPC", ["pwrite64"], every=29)

    assert wrong == []
    assert sweep.points >= 6


@pytest.mark.long
@pytest.mark.parametrize(("error", "calls"), [("EIO", "pwrite64 pread64 ftruncate"), ("ENOSPC", "pwrite64")])
def test_no_call_that_fails_loses_anything(runs: Zygote, tmp_path: Path, error: str, calls: str) -> None:
    sweep = Sweep(runs, tmp_path)

    assert sweep.wrong_after("stubborn", error, calls.split()) == []


def test_the_trace_of_a_sync_that_is_tried_again_is_noticed() -> None:
    failed = "7 fdatasync(3</x-wal>) = -1 EIO (Input/output error) (INJECTED)"

    assert synced_again(f"{failed}\n7 fdatasync(3</x-wal>) = 0\n")
    assert not synced_again(f"{failed}\n7 close(3</x-wal>) = 0\n7 fdatasync(3</x-wal>) = 0\n")
