"""What the content of a store is recognised by, where it can be told without a question."""

from __future__ import annotations

from tests.contract.support import House


def test_no_version_outlives_a_commit(house: House) -> None:
    seen = set()
    for _ in range(5):
        version = house.store.version()
        assert version is None or version not in seen
        seen.add(version)
        job = house.submit()
        assert house.stored(job).job_id == job.job_id


def test_a_version_is_told_again_or_not_at_all_while_nothing_is_committed(house: House) -> None:
    house.submit()
    version = house.store.version()

    assert [house.store.version() for _ in range(3)] == [version] * 3
