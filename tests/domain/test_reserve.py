from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from async_delivery.domain.reserve import (
    Reserve,
    lends,
    low_bytes,
    may_enter,
    may_restore,
    slice_bytes,
    wanted_bytes,
)

MIB = 1 << 20
SIZES = st.integers(0, 1 << 40)


def test_a_small_disk_gives_up_a_sixteenth_and_a_large_one_what_was_asked_for() -> None:
    assert wanted_bytes(64 * MIB, 16 * MIB) == MIB
    assert wanted_bytes(64 * MIB, 1 << 40) == 64 * MIB
    assert wanted_bytes(0, 1 << 40) == 0


def test_room_in_the_database_is_room_for_jobs_and_not_for_the_reserve() -> None:
    out = Reserve(64 * MIB, 0)

    assert out.needed_bytes == 96 * MIB
    assert may_enter(out, 40 * MIB, 56 * MIB)
    assert not may_enter(out, 40 * MIB, 55 * MIB)
    assert not may_restore(out, 40 * MIB)
    assert may_restore(out, 96 * MIB)


def test_while_it_is_whole_a_quarter_of_it_must_be_free_for_a_new_job() -> None:
    whole = Reserve(64 * MIB, 64 * MIB)

    assert may_enter(whole, 16 * MIB, 0)
    assert may_enter(whole, 0, 16 * MIB), "and the reserve lends what the disk has not"
    assert lends(whole, 0)
    assert not may_enter(whole, 16 * MIB - 1, 0)
    assert may_enter(Reserve(0, 0), 0, 0), "who keeps none is told by the database"


def test_no_room_in_the_database_takes_the_place_of_all_room_on_the_disk() -> None:
    assert not may_enter(Reserve(64 * MIB, 0), 0, 1 << 40)


@given(asked=SIZES, disk=SIZES, held=SIZES)
def test_slice_by_slice_all_of_it_is_let_go(asked: int, disk: int, held: int) -> None:
    wanted = wanted_bytes(asked, disk)
    held, slices = min(held, wanted), 0
    while held:
        slices += 1
        held -= slice_bytes(Reserve(wanted, held))
    assert slices <= 40


@given(asked=SIZES, disk=SIZES, free=SIZES)
def test_a_reserve_that_was_just_taken_back_is_not_let_go_at_once(asked: int, disk: int, free: int) -> None:
    size = wanted_bytes(asked, disk)
    if may_restore(Reserve(size, 0), free):
        assert free - size >= low_bytes(size)


@given(asked=SIZES, disk=SIZES, held=SIZES, free=SIZES)
def test_who_may_take_the_reserve_back_may_also_take_jobs(
    asked: int, disk: int, held: int, free: int
) -> None:
    reserve = Reserve(wanted_bytes(asked, disk), held)
    if may_restore(reserve, free) and held == 0:
        assert may_enter(reserve, free, 0)
