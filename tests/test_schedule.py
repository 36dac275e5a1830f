"""Schedules as settings: at an interval, by a cron expression in UTC, or never."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from async_delivery.settings import Settings, SettingsError, load
from async_delivery.settings.schedule import Schedule, parse_schedule

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", ["off", "OFF", "0", "never", " off "])
def test_off_is_never(text: str) -> None:
    schedule = parse_schedule(text)

    assert schedule.is_off
    assert schedule.longest_gap_seconds(NOON) == 0
    assert str(schedule) == "off"


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h", 3600.0), ("90", 90.0), ("1.5m", 90.0), ("7d", 604_800.0)]
)
def test_an_interval_is_a_duration(text: str, seconds: float) -> None:
    schedule = parse_schedule(text)

    assert not schedule.is_off
    assert schedule.interval_seconds == seconds == schedule.longest_gap_seconds(NOON)
    assert schedule.next_after(NOON) == NOON + timedelta(seconds=seconds)
    assert str(schedule) == text


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("15 3 * * *", datetime(2026, 3, 29, 3, 15, tzinfo=UTC)),
        ("*/20 * * * *", datetime(2026, 3, 28, 12, 20, tzinfo=UTC)),
        # The night in which clocks are set forward in Europe has its 02:30 in UTC like any other.
        ("30 2 * * *", datetime(2026, 3, 29, 2, 30, tzinfo=UTC)),
        ("0 0 29 2 *", datetime(2028, 2, 29, tzinfo=UTC)),
        ("0  4 * * MON", datetime(2026, 3, 30, 4, tzinfo=UTC)),
    ],
)
def test_a_cron_expression_names_times_in_utc(text: str, at: datetime) -> None:
    schedule = parse_schedule(text)

    assert schedule.next_after(NOON) == at
    assert parse_schedule(str(schedule)) == schedule


def test_the_next_time_is_after_the_present_one() -> None:
    schedule = parse_schedule("0 12 * * *")

    times = [NOON]
    for _ in range(3):
        times.append(schedule.next_after(times[-1]))

    assert [later - earlier for earlier, later in pairwise(times)] == [timedelta(days=1)] * 3


def test_the_longest_gap_of_an_uneven_expression_is_known() -> None:
    # Mondays to Fridays: over the weekend three days pass.
    assert parse_schedule("0 3 * * 1-5").longest_gap_seconds(NOON) == 3 * 86_400


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("soon", "neither off, nor an interval"),
        ("-1h", "neither off, nor an interval"),
        ("5s", "not between 10 s and 30 days"),
        ("31d", "not between 10 s and 30 days"),
        ("* * * *", "neither off"),
        ("61 * * * *", "not a cron expression"),
        ("0 0 30 2 *", "not a cron expression"),
        ("0 0 31 4,6 *", "not a cron expression"),
        ("* * * * * *", "neither off"),
        ("@daily", "neither off"),
    ],
)
def test_anything_else_is_refused_with_what_would_be_right(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_schedule(text)


def test_a_schedule_is_a_setting_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text('cleanup_schedule = "15 3 * * *"\n')

    assert load({}, {}, config_file=str(file)).settings.cleanup_schedule.cron == "15 3 * * *"
    assert load({"cleanup_schedule": "off"}, {}, config_file=str(file)).settings.cleanup_schedule.is_off
    assert load({}, {"ASYNC_DELIVERY_CLEANUP_SCHEDULE": "2h"}).settings.cleanup_schedule == Schedule(
        "2h", interval_seconds=7200.0
    )
    with pytest.raises(SettingsError, match=r"ASYNC_DELIVERY_CLEANUP_SCHEDULE: .*soon"):
        load({}, {"ASYNC_DELIVERY_CLEANUP_SCHEDULE": "soon"})


def test_bad_settings_say_which_store_they_are_about_as_far_as_that_is_known(tmp_path: Path) -> None:
    def store_of(flags: dict[str, object], config_file: Path | None = None) -> Path | None:
        with pytest.raises(SettingsError) as refused:
            load(
                {"port": "x", **flags},
                {},
                config_file=str(config_file) if config_file else None,
                cwd=tmp_path,
            )
        return refused.value.store_file

    named = tmp_path / "named.toml"
    named.write_text('store_file = "here.json"\nslots = "many"\n')
    broken = tmp_path / "broken.toml"
    broken.write_text("store_file = ")

    assert store_of({}) == Settings().store_file
    assert store_of({"store_file": "there.json"}) == Path("there.json")
    assert store_of({}, named) == tmp_path / "here.json"
    assert store_of({}, broken) is None
    assert store_of({}, tmp_path / "missing.toml") is None
    assert store_of({"store_file": "there.json"}, broken) == Path("there.json")
