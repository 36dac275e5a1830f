"""Which results a job from elsewhere has, in which order, and which one is the final one. See ``domain.adoption``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from async_delivery.domain.account import Kind, Note
from async_delivery.domain.adopting import Adopting, known
from async_delivery.domain.found import UNKNOWN, FoundResult
from async_delivery.domain.job import ACTIVE, JobStatus, ResultId
from async_delivery.domain.result import Result, ResultKind


def settle_results(work: Adopting) -> None:
    """Number the results, find the final one, and make a receipt where a completed job has none."""
    given = sorted(
        enumerate(work.found.results),
        key=lambda it: (it[1].result.result_seq, it[1].result.created_at, it[0]),
    )
    results = [each for _, each in given]
    final = _final(work, results)
    for each in results:
        if each is not final and each.result.is_final:
            each.notes.append(
                Note(
                    "a second final result, or one of a job that did not complete: kept as a partial one",
                    "result_kind",
                    "final",
                )
            )
            each.result = replace(each.result, result_kind=ResultKind.PARTIAL)
    if final is not None:
        results.remove(final)
        results.append(final)
    _number_results(results)
    if final is None and work.job.status is JobStatus.COMPLETED and work.found.state_known:
        results.append(_receipt(work, results))
    work.results = results
    last = results[-1].result if results else None
    partials = sum(1 for each in results if not each.result.is_final)
    # An ended job that names or counts more than there is has been cleaned up, and nothing is odd about that.
    cleaned = work.job.status.terminal and work.found.state_known
    said = work.job.partial_count
    if said >= 0 and (partials > said or (partials < said and not cleaned)):
        work.note(
            f"partial_count {said} became {partials}, the partial results there are",
            "partial_count",
            said,
        )
    named, now_named = work.job.result_id, last.result_id if last else None
    if named is not None and named != now_named and (last is not None or not cleaned):
        work.note(
            "result_id named a result that is not there or not the newest; it names the newest one"
            if last
            else "result_id named a result that is not there",
            "result_id",
            named,
        )
    work.change(result_id=now_named, partial_count=partials, result_seq=last.result_seq if last else 0)


def _final(work: Adopting, results: Sequence[FoundResult]) -> FoundResult | None:
    """Which result is the job's final one, if it has one; a job with its final result has completed."""
    finals = [each for each in results if each.result.is_final]
    named = next((each for each in results if each.result.result_id == work.job.result_id), None)
    if not work.found.state_known:
        return None
    if work.job.status in ACTIVE and finals:
        _complete(work, finals[-1].result)
        return finals[-1]
    if work.job.status is not JobStatus.COMPLETED:
        return None
    if finals:
        return named if named in finals else finals[-1]
    if named is not None:
        named.notes.append(
            Note("the completed job names this one, so it is its final result", "result_kind", "partial")
        )
        named.result = replace(named.result, result_kind=ResultKind.FINAL)
    return named


def _complete(work: Adopting, final: Result) -> None:
    was = work.job.status
    work.note("it had its final result, but its end was never written: completed", "status", str(was))
    ended = final.created_at if final.created_at != UNKNOWN else work.at
    work.change(
        status=JobStatus.COMPLETED,
        progress_percent=100.0,
        finished_at=known(ended),
        updated_at=ended,
        error=None,
    )


def _receipt(work: Adopting, results: Sequence[FoundResult]) -> FoundResult:
    """What is left of a final result that was cleaned up: who asks for it hears that it has expired."""
    result_id = work.job.result_id
    if result_id is None or not work.found.result_free:
        result_id = ResultId(work.new_id())
    ended = work.job.finished_at or work.at
    result = Result(
        result_id=result_id,
        org_id=work.job.org_id,
        job_id=work.job.job_id,
        result_kind=ResultKind.FINAL,
        result_seq=results[-1].result.result_seq + 1 if results else 1,
        attempt=max(1, work.job.attempt),
        created_at=ended,
        expires_at=ended,
        size_bytes=0,
        sha256="",
        deleted_at=ended,
    )
    work.made(Kind.RESULTS, result_id, "the completed job has no final result: a receipt that answers 410")
    return FoundResult(result, None)


def _number_results(results: Sequence[FoundResult]) -> None:
    numbers = [each.result.result_seq for each in results]
    if all(number >= 1 for number in numbers) and numbers == sorted(set(numbers)):
        return
    for number, each in enumerate(results, start=1):
        was = each.result.result_seq
        if was != number:
            each.notes.append(Note(f"numbered {number} in its order", "result_seq", was or None))
            each.result = replace(each.result, result_seq=number)
