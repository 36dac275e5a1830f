"""The oracle finds what is broken, and nothing in what is whole; each breach is planted in a whole history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reliability.image import AttemptRow, EventRow, Image, JobRow, NotificationRow, ResultRow
from tests.reliability.journal import Journal, Operation, Outcome, read_journal
from tests.reliability.oracle import Rule, judge

ALPHA, BETA = "alpha", "beta"
DIGEST = "ab" * 32


def whole() -> tuple[list[Operation], Image]:
    """Two jobs: one that completed at its second attempt, one that was canceled while it waited."""
    history = [
        Operation(1, "submit", ALPHA, {"job_id": "j1"}, Outcome.ACKNOWLEDGED),
        Operation(2, "submit", BETA, {"job_id": "j2"}, Outcome.ACKNOWLEDGED),
        Operation(3, "submit", BETA, {}, Outcome.UNKNOWN),
        Operation(4, "submit", BETA, {}, Outcome.REFUSED),
        Operation(5, "saw_end", ALPHA, {"job_id": "j1", "status": "completed"}, Outcome.ACKNOWLEDGED),
        Operation(6, "saw_result", ALPHA, {"result_id": "r2", "sha256": DIGEST}, Outcome.ACKNOWLEDGED),
    ]
    kinds: list[tuple[str, int | None]] = [
        ("job.queued", None),
        ("job.running", 1),
        ("job.partial", 1),
        ("job.attempt_lost", 1),
        ("job.requeued", 1),
        ("job.running", 2),
        ("job.completed", 2),
    ]
    image = Image(
        jobs={
            "j1": JobRow("j1", ALPHA, "completed", 2, 7, 2, "r2", None, "1"),
            "j2": JobRow("j2", BETA, "canceled", 0, 2, 0, None, None, "2"),
        },
        events=[EventRow("j1", ALPHA, n, kind, attempt) for n, (kind, attempt) in enumerate(kinds, 1)]
        + [EventRow("j2", BETA, 1, "job.queued", None), EventRow("j2", BETA, 2, "job.canceled", None)],
        results=[
            ResultRow("r1", "j1", ALPHA, "partial", 1, 1, "cd" * 32, "cd" * 32, False),
            ResultRow("r2", "j1", ALPHA, "final", 2, 2, DIGEST, DIGEST, False),
        ],
        attempts=[AttemptRow("j1", ALPHA, 1, "lost"), AttemptRow("j1", ALPHA, 2, "completed")],
        notifications=[
            NotificationRow("j1", ALPHA, "in_app", "async.job.completed"),
            NotificationRow("j2", BETA, "in_app", "async.job.canceled"),
        ],
    )
    return history, image


Plant = Callable[[list[Operation], Image], object]


def other_job(image: Image, **changes: object) -> None:
    image.jobs["j1"] = replace(image.jobs["j1"], **changes)  # type: ignore[arg-type]


def unended(image: Image) -> None:
    image.jobs["j2"].status = "queued"
    image.events.pop()
    image.jobs["j2"].event_seq = 1
    image.notifications.pop()


def second_job(image: Image, **changes: object) -> None:
    image.jobs["j3"] = replace(image.jobs["j2"], job_id="j3", **changes)  # type: ignore[arg-type]
    image.events += [replace(row, job_id="j3") for row in image.events if row.job_id == "j2"]
    image.notifications += [replace(row, job_id="j3") for row in image.notifications if row.job_id == "j2"]


def each(*plants: Plant) -> Plant:
    def plant(history: list[Operation], image: Image) -> None:
        for one in plants:
            one(history, image)

    return plant


BREACHES: dict[str, tuple[Plant, Rule]] = {
    "an acknowledged job is not there": (lambda h, i: i.jobs.pop("j2"), Rule.LOST),
    "its rows are, though": (lambda h, i: i.jobs.pop("j2"), Rule.GONE),
    "an acknowledged job went to another tenant": (
        lambda h, i: setattr(i.jobs["j2"], "org_id", ALPHA),
        Rule.TENANT,
    ),
    "a job that nobody asked for": (lambda h, i: second_job(i, operation="99"), Rule.INVENTED),
    "a job of a refused request": (lambda h, i: second_job(i, operation="4"), Rule.INVENTED),
    "two jobs of one request": (lambda h, i: second_job(i, operation="2"), Rule.TWICE),
    "a retry that nobody asked for": (
        lambda h, i: second_job(i, operation="2", retry_of="j2"),
        Rule.TWICE,
    ),
    "a job that never ends": (lambda h, i: unended(i), Rule.UNENDED),
    "two ends": (
        each(
            lambda h, i: i.events.insert(7, EventRow("j1", ALPHA, 8, "job.failed", 2)),
            lambda h, i: setattr(i.jobs["j1"], "event_seq", 8),
        ),
        Rule.ENDS,
    ),
    "an end that its events do not tell": (
        lambda h, i: setattr(i.events[6], "kind", "job.failed"),
        Rule.ENDS,
    ),
    "an event after the end": (
        each(
            lambda h, i: i.events.insert(7, EventRow("j1", ALPHA, 8, "job.progress", 2)),
            lambda h, i: setattr(i.jobs["j1"], "event_seq", 8),
        ),
        Rule.ENDS,
    ),
    "an end that a client saw otherwise": (
        lambda h, i: h.append(
            Operation(7, "saw_end", ALPHA, {"job_id": "j1", "status": "failed"}, Outcome.ACKNOWLEDGED)
        ),
        Rule.CHANGED,
    ),
    "an erased job": (
        lambda h, i: h.append(Operation(7, "erase", BETA, {"job_id": "j2"}, Outcome.ACKNOWLEDGED)),
        Rule.GONE,
    ),
    "a result that was gone": (
        lambda h, i: h.append(Operation(7, "saw_gone", ALPHA, {"result_id": "r1"}, Outcome.ACKNOWLEDGED)),
        Rule.GONE,
    ),
    "a gap in the events": (lambda h, i: i.events.pop(2), Rule.EVENTS),
    "an event that is not counted": (
        lambda h, i: setattr(i.jobs["j1"], "event_seq", 6),
        Rule.EVENTS,
    ),
    "the same event twice": (lambda h, i: setattr(i.events[2], "seq", 2), Rule.EVENTS),
    "a gap in the attempts": (lambda h, i: i.attempts.pop(0), Rule.ATTEMPTS),
    "an attempt without an end": (
        lambda h, i: setattr(i.attempts[0], "outcome", None),
        Rule.ATTEMPTS,
    ),
    "nobody was told": (lambda h, i: i.notifications.pop(), Rule.TOLD),
    "told twice": (lambda h, i: i.notifications.append(i.notifications[0]), Rule.TOLD),
    "told of another end": (
        lambda h, i: setattr(i.notifications[0], "template", "async.job.failed"),
        Rule.TOLD,
    ),
    "a webhook told twice": (
        lambda h, i: i.notifications.extend(
            [NotificationRow("j1", ALPHA, "webhook", "async.job.completed")] * 2
        ),
        Rule.TOLD,
    ),
    "no final result": (lambda h, i: i.results.pop(), Rule.RESULTS),
    "two final results": (lambda h, i: setattr(i.results[0], "kind", "final"), Rule.RESULTS),
    "a final result of a failed job": (lambda h, i: other_job(i, status="failed"), Rule.RESULTS),
    "a flipped byte": (lambda h, i: setattr(i.results[1], "body_sha256", "00" * 32), Rule.BYTES),
    "a body that is gone": (lambda h, i: setattr(i.results[1], "body_sha256", None), Rule.BYTES),
    "a result that was read otherwise": (
        lambda h, i: h[5].facts.update(sha256="00" * 32),
        Rule.BYTES,
    ),
    "a result that another tenant read": (lambda h, i: setattr(h[5], "org_id", BETA), Rule.TENANT),
    "an answer about another tenant": (
        lambda h, i: h.append(Operation(7, "saw_foreign", BETA, {"what": "j1"}, Outcome.ACKNOWLEDGED)),
        Rule.TENANT,
    ),
    "an event of another tenant": (lambda h, i: setattr(i.events[3], "org_id", BETA), Rule.TENANT),
    "a late event of an old attempt": (lambda h, i: setattr(i.events[6], "attempt", 1), Rule.STALE),
    "a late result of an old attempt": (
        each(
            lambda h, i: setattr(i.results[0], "attempt", 2),
            lambda h, i: setattr(i.results[1], "attempt", 1),
        ),
        Rule.STALE,
    ),
    "a broken page": (lambda h, i: i.damage.append("row 3 missing from index"), Rule.DAMAGE),
}


def test_a_whole_history_has_no_breach() -> None:
    history, image = whole()

    assert judge(history, image) == []


@pytest.mark.parametrize("name", BREACHES)
def test_what_is_broken_is_found(name: str) -> None:
    plant, rule = BREACHES[name]
    history, image = whole()
    plant(history, image)

    assert rule in {breach.rule for breach in judge(history, image)}


def test_every_rule_has_been_seen_to_find_something() -> None:
    assert {rule for _, rule in BREACHES.values()} == set(Rule)


def test_a_request_without_an_answer_may_have_led_to_one_job() -> None:
    history, image = whole()
    second_job(image, operation="3")

    assert judge(history, image) == []


def test_such_a_job_must_be_whole() -> None:
    history, image = whole()
    second_job(image, operation="3")
    image.events = [event for event in image.events if event.job_id != "j3"]

    assert {breach.rule for breach in judge(history, image)} == {Rule.EVENTS, Rule.ENDS}


def test_an_erase_without_an_answer_may_have_been_carried_out() -> None:
    history, image = whole()
    history.append(Operation(7, "erase", BETA, {"job_id": "j2"}, Outcome.UNKNOWN))
    del image.jobs["j2"]
    image.events = [event for event in image.events if event.job_id != "j2"]
    image.notifications.pop()

    assert judge(history, image) == []


def test_cleanup_may_take_events_of_ended_jobs_from_the_front_and_bodies() -> None:
    history, image = whole()
    del image.events[:3]
    image.results[0].deleted, image.results[0].body_sha256 = True, None

    assert judge(history, image, cleaned=True) == []
    assert {breach.rule for breach in judge(history, image)} == {Rule.EVENTS, Rule.BYTES}


def test_cleanup_may_not_take_events_from_the_middle() -> None:
    history, image = whole()
    del image.events[3]

    assert {breach.rule for breach in judge(history, image, cleaned=True)} == {Rule.EVENTS}


def test_a_journal_is_read_back_as_it_was_written_but_for_a_torn_last_line(tmp_path: Path) -> None:
    # given
    journal = Journal(tmp_path / "journal")
    first = journal.sending("submit", ALPHA, analysis="selftest")
    journal.sending("submit", BETA)
    journal.answered(first, Outcome.ACKNOWLEDGED, job_id="j1")
    journal.saw("saw_end", ALPHA, job_id="j1", status="completed")
    journal.close()
    with journal.path.open("ab") as file:
        file.write(b'{"n": 9, "kind": "sub')

    # when
    history = read_journal(journal.path)

    # then
    assert history == [
        Operation(1, "submit", ALPHA, {"analysis": "selftest", "job_id": "j1"}, Outcome.ACKNOWLEDGED),
        Operation(2, "submit", BETA, {}, Outcome.UNKNOWN),
        Operation(3, "saw_end", ALPHA, {"job_id": "j1", "status": "completed"}, Outcome.ACKNOWLEDGED),
    ]
