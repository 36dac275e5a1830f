"""R1 and R2: kill -9 of anything at any time, under load; nothing is lost and nothing happens twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on
from tests.reliability.journal import Journal, read_journal
from tests.reliability.nemesis import KILLS, QUICK_KILLS, Nemesis
from tests.reliability.oracle import DUPLICATES, LOSSES, judge
from tests.reliability.traffic import Traffic, drained
from tests.system.live import run_command

# A worker that was killed is missed after a lease at the latest.
LEASE = ("--lease-seconds", "3", "--heartbeat-seconds", "1", "--poll-seconds", "0.2")


def kills(
    store: str,
    folder: Path,
    wanted: int,
    seed: int,
    score: Score,
    kinds: Mapping[str, Mapping[str, int]] = KILLS,
) -> None:
    """Load, ``wanted`` kills, the oracle's judgement."""
    journal = Journal(folder / "journal")
    with fleet_on(store, folder, *LEASE) as fleet:
        nemesis = Nemesis(fleet, seed, kinds)
        with Traffic(journal, lambda: fleet.ports, seed) as traffic:
            traffic.reaches(5)
            nemesis.strike_until(wanted)
            traffic.reaches(len(traffic.jobs) + 5)
        drained(fleet.ports[0], traffic.jobs)
        settle(fleet)
        breaches = judge(read_journal(journal.path), fleet.image())
    journal.close()

    print(f"{nemesis.kills} kills ({nemesis}), {len(traffic.jobs)} jobs accepted")
    shown = [str(breach) for breach in breaches]
    lost = sum(breach.rule in LOSSES for breach in breaches)
    twice = sum(breach.rule in DUPLICATES for breach in breaches)
    print("\n".join([*shown[:10], *traffic.faults[:10]]))
    score("R1", store, lost, cases=nemesis.kills, seed=seed)
    score("R2", store, twice, cases=nemesis.kills, seed=seed)
    assert traffic.faults == []
    assert shown == []
    assert len(traffic.jobs) > wanted / 2
    if wanted >= 100:
        assert {blow.split()[0] for blow in nemesis.blows} >= set(kinds[store])


def settle(fleet: Fleet) -> None:
    """Stop everything, and let the product check itself as well."""
    fleet.stop()
    checked = run_command(
        "store", "check", "--store-file", str(fleet.store_file), cwd=fleet.store_file.parent
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_forty_kills_of_anything_lose_nothing_and_end_nothing_twice(
    store: str, tmp_path: Path, seed: int, score: Score
) -> None:
    kills(store, tmp_path, 40, seed, score, QUICK_KILLS)


@pytest.mark.long
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_five_hundred_kills_of_anything_lose_nothing_and_end_nothing_twice(
    store: str, tmp_path: Path, seed: int, score: Score
) -> None:
    kills(store, tmp_path, 500, seed, score)
