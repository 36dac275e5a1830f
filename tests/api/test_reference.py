"""docs/reference/http-api.md and the code know the same routes, answers and headers."""

from __future__ import annotations

import json
import re

from pydantic import BaseModel

from async_delivery.api import context, request, schemas, status
from async_delivery.api.app import ROUTES
from async_delivery.api.decode import MAX_DEPTH
from async_delivery.api.errors import KINDS
from async_delivery.api.jobs import MAX_EVENT_PAGE, MAX_PAGE, MAX_REASON
from tests.docs.pages import code, fences, read, rows, section

PAGE = read("docs/reference/http-api.md")
# Every route of a tenant may answer so; the page says it once.
SHARED = {400, 403, 429, 500, 503}


def marked(name: str) -> list[list[str]]:
    """The rows of the table between two marks."""
    found = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end -->", PAGE, flags=re.DOTALL)
    assert len(found) == 1
    return rows(found[0])


def numbers(cell: str) -> set[int]:
    return {int(text) for text in re.findall(r"\d+", cell)}


def test_every_route_is_listed_with_what_it_answers() -> None:
    listed = {
        (code(row[0])[0], code(row[1])[0]): (numbers(row[2]), numbers(row[3])) for row in marked("routes")
    }
    known = {
        (route.method, route.path): (
            set(route.answers),
            {KINDS[name].status for name in route.codes.split()} - SHARED,
        )
        for route in ROUTES
    }

    assert listed == known


def test_every_header_that_is_read_is_listed() -> None:
    listed = [code(row[0])[0].lower() for row in marked("headers")]

    assert len(listed) == len(set(listed))
    assert set(listed) == {name.decode() for name in request.READ}


def test_every_member_of_a_job_is_explained() -> None:
    table = rows(section(PAGE, "Status"))
    listed = {name for row in table for name in code(row[0])}

    assert listed == set(schemas.JobWithEvents.model_fields)


def test_every_member_of_a_submit_is_explained() -> None:
    listed = {code(row[0])[0] for row in rows(section(PAGE, "Submit")) if code(row[0])}
    known = set(schemas.SubmitRequest.model_fields) - {"options"}
    known |= {"options.async_mode.requested", "options.priority", "options.results_ttl_seconds"}

    assert listed >= known


def test_the_limits_are_the_ones_that_hold() -> None:
    settings = context.ApiSettings(version="")

    assert (settings.max_body_bytes, settings.max_upload_bytes) == (1 << 20, 1 << 30)
    assert (settings.max_wait_seconds, settings.max_waits_per_tenant) == (60, 100)
    assert (request.BODY_GRACE_SECONDS, request.BODY_BYTES_PER_SECOND) == (30, 1 << 10)
    assert (MAX_DEPTH, MAX_PAGE, MAX_REASON) == (64, 200, 500)
    assert status.MAX_EVENTS == MAX_EVENT_PAGE == 1_000
    for words in (
        "1 MiB",
        "1 GiB",
        "deeper than 64 levels",
        "1 to 200",
        "30 s",
        "up to 500 characters",
        "100 answers",
    ):
        assert words in PAGE


def test_the_examples_are_json_with_the_members_of_the_real_thing() -> None:
    examples = [json.loads(fence.text) for fence in fences(PAGE) if fence.language == "json"]
    shapes: tuple[type[BaseModel], ...] = (
        schemas.SubmitRequest,
        schemas.Accepted,
        schemas.JobStatusAnswer,
        schemas.Permalink,
    )

    assert len(examples) == len(shapes)
    for example, shape in zip(examples, shapes, strict=True):
        assert set(example) == set(shape.model_fields)
