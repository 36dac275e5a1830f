"""The short way to the next job finds the one that the long way finds, or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from async_delivery.domain.job import Job, Priority
from async_delivery.storage import dispatch
from async_delivery.storage.contract import Transaction
from async_delivery.storage.sqlite import SqliteTransaction
from tests.contract.support import House
from tests.storage.support import sqlite_store

ANALYSES = ("count", "profile", "selftest")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    store = sqlite_store(tmp_path)
    yield House(store)
    store.close()


class _Undone(Exception):  # noqa: N818  not an error: what was looked at is to be as it was
    pass


def both_ways(house: House, analyses: Sequence[str] | None) -> tuple[Job | None, Job | None]:
    """What the short way and the long way find, from the same state."""
    found: list[Job | None] = []

    def short(tx: Transaction) -> None:
        assert isinstance(tx, SqliteTransaction)
        found.append(dispatch.claimable_at_once(tx, analyses, house.now))
        raise _Undone

    def long(tx: Transaction) -> None:
        assert isinstance(tx, SqliteTransaction)
        dispatch.promote_due(tx, house.now)
        found.append(next(iter(dispatch.claimable(tx, 1, analyses, None)), None))
        raise _Undone

    for way in (short, long):
        with pytest.raises(_Undone):
            house.store.write(way)
    return found[0], found[1]


@pytest.mark.parametrize("seed", range(6))
def test_the_short_way_finds_whom_the_long_way_finds_or_leaves_it_to_that(house: House, seed: int) -> None:
    chance = Random(seed)
    kinds = ANALYSES[: chance.randint(1, 3)]
    taken = 0
    for _ in range(60):
        for _ in range(chance.randint(0, 2)):
            # Ids that are not in the order of arrival, as within one millisecond.
            job_id = f"{chance.getrandbits(40):010x}"
            delay = timedelta(seconds=chance.choice((0, 0, 0, 5)))
            house.submit(
                chance.choice(("alpha", "beta", "gamma")),
                job_id=job_id,
                analysis=chance.choice(kinds),
                priority=chance.choice(list(Priority)),
                due_at=house.now + delay if delay else None,
            )
        house.now += timedelta(seconds=1)
        wanted = chance.choice((None, list(ANALYSES), ["profile"]))

        short, long = both_ways(house, wanted)

        assert short in (None, long)
        taken += short is not None
        assert [job.job_id for job in house.claim(analyses=wanted)] == ([long.job_id] if long else [])
    assert taken > 0
    assert house.violations() == []


def test_the_way_to_a_tenants_only_kind_of_job_is_short(house: House) -> None:
    house.submit_many(5)

    short, long = both_ways(house, None)

    assert short is not None
    assert short == long
