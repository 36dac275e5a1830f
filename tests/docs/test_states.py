"""docs/reference/states.md says what the machine of the domain does, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from async_delivery.domain import lifecycle
from async_delivery.domain.event import Event, EventType
from async_delivery.domain.failure import FailureCode, failure
from async_delivery.domain.job import JobId, JobStatus
from async_delivery.domain.lifecycle import TRANSITIONS, Change
from async_delivery.domain.result import seal
from scripts import generate_states
from tests.docs.pages import ROOT, code, read, rows, section
from tests.domain.support import NOON, REQUEST, RULE, fresh_job, ids, running_job

PAGE = "docs/reference/states.md"


def test_the_states_page_is_what_the_generator_makes_of_the_code() -> None:
    page = read(PAGE)

    assert generate_states.render(page) == page


def test_the_generator_notices_a_page_that_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = tmp_path / "states.md"
    behind.write_text(read(PAGE).replace("queued --> running: claim", "queued --> completed: claim"))
    monkeypatch.setattr(generate_states, "PAGE", behind)

    assert generate_states.main(["--check"]) == 1
    assert generate_states.main([]) == 0

    assert behind.read_text() == read(PAGE)
    assert generate_states.main(["--check"]) == 0


def test_the_generator_refuses_a_page_that_lost_a_part() -> None:
    page = read(PAGE).replace("<!-- generated: transitions -->", "")

    with pytest.raises(ValueError, match="transitions"):
        generate_states.render(page)


def test_the_generator_runs_from_the_checkout() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_states.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_every_allowed_transition_is_a_row_and_an_arrow() -> None:
    page = read(PAGE)
    allowed = {(str(before), str(after)) for before, targets in TRANSITIONS.items() for after in targets}

    listed = {
        (code(row[0])[0], code(row[1])[0])
        for row in rows(section(page, "Transitions"))
        if len(row) == 3 and code(row[0])
    }
    arrows = {
        (a, b) for a in TRANSITIONS for b in TRANSITIONS if f"\n    {a} --> {b}: " in section(page, "Diagram")
    }

    assert listed == allowed
    assert arrows == allowed


def test_every_state_is_explained() -> None:
    explained = section(read(PAGE), "States")

    assert [status for status in JobStatus if f"\n- **{status}**: " not in explained] == []


def every_kind_of_event() -> list[Event]:
    """Events as the lifecycle writes them, each type at least once."""
    lost = failure(FailureCode.ANALYSIS_ERROR, "no luck", retryable=True)
    new_id, later = ids(), NOON + timedelta(seconds=1)
    job, fence = running_job()
    asked = lifecycle.request_cancel(job, "alpha", "enough", later, new_id)
    withdrawn = lifecycle.request_cancel(fresh_job(), "alpha", "enough", later, new_id)
    reported = lifecycle.progress(job, fence, 10.0, "load", None, later, new_id)
    assert asked
    assert withdrawn
    assert reported
    changes: list[Change] = [
        lifecycle.submit(fresh_job(retry_of=JobId("job-0")), REQUEST, new_id),
        lifecycle.claim(fresh_job(), "worker-a", "token", 30.0, later, new_id),
        reported,
        lifecycle.publish_partial(job, fence, seal({}), later, new_id),
        lifecycle.complete(job, fence, seal({}), later, new_id),
        lifecycle.fail(job, fence, lost, later, new_id, rule=RULE, again=True),
        lifecycle.fail(job, fence, lost, later, new_id, rule=RULE, again=False),
        lifecycle.rescue(job, later, new_id),
        asked,
        withdrawn,
        lifecycle.confirm_cancel(asked.job, fence, later, new_id),
    ]
    return [event for change in changes for event in change.events]


def test_every_event_is_listed_with_what_it_carries() -> None:
    carried: dict[str, set[str]] = {}
    for event in every_kind_of_event():
        carried.setdefault(event.event_type, set()).update(event.payload)
    assert set(carried) == set(EventType)

    listed = {code(row[0])[0]: set(code(row[2])) for row in rows(section(read(PAGE), "Events"))}

    assert listed == carried


def test_the_ways_back_to_the_queue_are_listed_with_their_reasons() -> None:
    job, fence = running_job()
    again = failure(FailureCode.ANALYSIS_ERROR, "no luck", retryable=True)
    back = [
        ("fail", lifecycle.fail(job, fence, again, NOON, ids(), rule=RULE, again=True)),
        ("release", lifecycle.release(job, fence, NOON, ids())),
        ("release", lifecycle.release(job, fence, NOON, ids(), begun=False)),
        ("rescue", lifecycle.rescue(job, NOON, ids())),
    ]
    expected = [
        (verb, change.events[-1].payload["reason"], "yes" if change.job.error_count else "no")
        for verb, change in back
    ]

    listed = [
        (row[0], code(row[1])[0], row[3]) for row in rows(section(read(PAGE), "Transitions")) if len(row) == 4
    ]

    assert listed == expected
