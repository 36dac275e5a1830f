"""Which spans of a document go with the jobs that go: their records, and all that belongs to them elsewhere in it.

What of results and events goes by itself is ``document_cleanup``'s business, as is the decision which jobs go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from async_delivery.domain.account import Kind
from async_delivery.storage.document import CHUNKS, INPUTS, Document
from async_delivery.storage.document_index import Place
from async_delivery.storage.document_scan import Member


def cuts_with_jobs(
    document: Document,
    going: Collection[str],
    old_results: Iterable[Place],
    old_events: Mapping[str, list[Place]],
    input_of: Mapping[str, str],
) -> list[Place]:
    """Everything that goes when ``going`` go as well; disjoint, in no order.

    old_results  spans that go anyway
    old_events   the same by job
    input_of     job id -> the uploaded file it names, of every job of the document
    """
    results = {place.start for job_id in going for _, place in document.results_of(job_id)}
    told = {place.start for job_id in going for _, place in document.notifications_of(job_id)}
    files = _files_of(document, going, input_of)
    is_old = _inside(sorted(old_results))
    return [
        *_cut(document, "jobs", lambda member: member.key in going),
        # The old ones are asked for first: it is a walk along the file that must see each member.
        *_cut(document, "results", lambda member: is_old(member) or member.start in results),
        *_cut(document, "events", lambda member: member.key in going),
        *(place for job_id, places in old_events.items() if job_id not in going for place in places),
        *_cut(document, "notifications", lambda member: member.start in told),
        *_cut(document, INPUTS, lambda member: member.key in files),
        *_cut(document, CHUNKS, lambda member: member.key.rpartition("/")[0] in files),
    ]


def _files_of(document: Document, going: Collection[str], input_of: Mapping[str, str]) -> set[str]:
    """Uploaded files that only jobs name that go."""
    unclear = {stray.record_id for stray in document.strays() if stray.kind is Kind.INPUTS}
    kept = {input_id for job_id, input_id in input_of.items() if job_id not in going}
    return {input_of[job_id] for job_id in going if job_id in input_of} - kept - unclear


def _inside(cuts: list[Place]) -> Callable[[Member], bool]:
    """Whether a member lies in one of ``cuts``; to be asked in the order of the file."""
    rest = iter(cuts)
    current = next(rest, None)

    def is_inside(member: Member) -> bool:
        nonlocal current
        while current is not None and current.end <= member.start:
            current = next(rest, None)
        return current is not None and current.start <= member.start

    return is_inside


def _cut(document: Document, section: str, goes: Callable[[Member], bool]) -> list[Place]:
    place = document.sections.places.get(section)
    return [] if place is None else cuts_of(place, document.section(section), goes)


def cuts_of(container: Place, members: Iterable[Member], goes: Callable[[Member], bool]) -> list[Place]:
    """The spans to cut out of an object or list so that the members that go are gone with their commas."""
    cuts: list[Place] = []
    kept, before, first = False, 0, None
    for member in members:
        if goes(member):
            if kept:
                _join(cuts, before, member.end)
            elif first is None:
                first = member.at
        elif not kept:
            kept = True
            if first is not None:
                _join(cuts, first, member.at)
        before = member.end
    if first is not None and not kept:
        _join(cuts, container.start + 1, container.end - 1)
    return cuts


def _join(cuts: list[Place], start: int, end: int) -> None:
    if cuts and cuts[-1].end == start:
        cuts[-1] = Place(cuts[-1].start, end)
    else:
        cuts.append(Place(start, end))
