from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from async_delivery.domain.errors import NotSerializableError
from async_delivery.plugins import CancelRequested, Context, InvalidInputError, analysis
from async_delivery.testing import FakeClock, Progress, RecordingContext, run_inline


@analysis("steps", input="optional")
def steps(*, n: int = 2, context: Context) -> dict[str, Any]:
    """Publish n partials."""
    for step in range(n):
        context.progress(100 * step / n, "working", f"step {step}")
        context.partial({"step": step})
    text = context.input.path.read_text() if context.input else None
    return {"n": n, "query": context.query, "text": text, "pair": (1, 2), "folder": context.workdir.is_dir()}


def test_an_inline_run_gives_what_a_tenant_would_read(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("some words")

    run = run_inline(steps, {"n": 2}, query="q", input=file)

    assert run.result == {"n": 2, "query": "q", "text": "some words", "pair": [1, 2], "folder": True}
    assert run.partials == [{"step": 0}, {"step": 1}]
    assert run.progress == [Progress(0, "working", "step 0"), Progress(50, "working", "step 1")]


def test_an_inline_run_refuses_params_that_the_server_would_refuse() -> None:
    with pytest.raises(InvalidInputError) as caught:
        run_inline(steps, {"n": "2", "other": True})

    assert len(caught.value.details) == 2


def test_a_result_without_a_json_form_is_refused_as_on_the_server() -> None:
    @analysis("odd")
    def odd() -> dict[str, Any]:
        return {"value": {1, 2}}

    with pytest.raises(NotSerializableError, match="value"):
        run_inline(odd)


def test_cancel_stops_at_the_next_report() -> None:
    with pytest.raises(CancelRequested):
        run_inline(steps, {"n": 5}, cancel_after_partials=2)


def test_a_partial_is_kept_as_it_was_when_it_was_published(tmp_path: Path) -> None:
    context = RecordingContext(tmp_path)
    payload = {"seen": [1]}

    context.partial(payload, percent=10, stage="first")
    payload["seen"].append(2)

    assert context.partials == [{"seen": [1]}]
    assert context.reported == [Progress(10, "first", None)]


@pytest.mark.parametrize("percent", [-1, 101, float("nan"), True, "50"])
def test_a_percentage_outside_its_range_is_refused(tmp_path: Path, percent: Any) -> None:
    with pytest.raises(ValueError, match="0 to 100"):
        RecordingContext(tmp_path).progress(percent)


def test_the_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock()
    assert clock.now() == clock.now() == datetime(2026, 1, 1, tzinfo=UTC)

    clock.advance(seconds=1.5)
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)

    clock.set(datetime(2027, 3, 1, 12, tzinfo=timezone(timedelta(hours=1))))
    assert clock.now().isoformat() == "2027-03-01T11:00:00+00:00"


def test_the_fake_clock_refuses_naive_times_and_going_back() -> None:
    clock = FakeClock()

    with pytest.raises(ValueError, match="time zone"):
        clock.set(datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(seconds=-1)
