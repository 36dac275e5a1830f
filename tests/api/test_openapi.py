"""The OpenAPI file is valid, complete and true; the page that shows it needs nothing from elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import nullcontext, suppress
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from async_delivery.api.app import ROUTES
from async_delivery.api.errors import KINDS
from async_delivery.engine import jobs
from async_delivery.engine.runtime import Runtime
from tests.api.support import Web, finished, started
from tests.engine.support import ALPHA, submitted


@pytest.fixture
def document(web: Web) -> dict[str, Any]:
    document: dict[str, Any] = web.get("/openapi.json").json()
    return document


def test_it_is_openapi_3_1_with_every_route_of_the_table(document: dict[str, Any]) -> None:
    described = {
        (method.upper(), path) for path, operations in document["paths"].items() for method in operations
    }

    assert document["openapi"].startswith("3.1")
    assert described == {(route.method, route.path) for route in ROUTES}


def test_every_reference_leads_somewhere_and_every_schema_is_one(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    referenced = set(re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', str(document).replace("'", '"')))

    assert referenced == set(schemas)
    for schema in schemas.values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_every_operation_says_what_may_go_wrong(document: dict[str, Any]) -> None:
    by_code = {code: str(kind.status) for code, kind in KINDS.items()}
    for route in ROUTES:
        answers = document["paths"][route.path][route.method.lower()]["responses"]
        expected = {str(status) for status in route.answers} | {by_code[code] for code in route.codes.split()}

        assert expected <= set(answers), route
        assert by_code["internal"] in answers
        for status, answer in answers.items():
            # Readiness answers its checks with 503, which is an answer and no refusal.
            if int(status) >= 400 and int(status) not in route.answers:
                assert answer["content"]["application/json"]["schema"] == {
                    "$ref": "#/components/schemas/Error"
                }
        assert "default" not in answers


def test_parameters_are_described_once(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            named = [(one["in"], one["name"]) for one in operation.get("parameters", [])]
            assert len(named) == len(set(named)), (method, path)
            for name in re.findall(r"\{(\w+)\}", path):
                assert ("path", name) in named, (method, path)
            tenant = path.startswith("/analy")
            assert (("header", "X-Org-Id") in named) == tenant, (method, path)


def test_the_submit_body_is_described_in_both_forms(document: dict[str, Any]) -> None:
    content = document["paths"]["/analyze"]["post"]["requestBody"]["content"]

    assert set(content) == {"application/json", "multipart/form-data"}


# ---------------------------------------------------------------- what is described is what is sent
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.slow
def test_no_request_made_from_it_breaks_the_service_or_its_word(rt: Runtime) -> None:
    done, canceled = finished(rt), submitted(rt)
    jobs.cancel(rt, ALPHA, canceled.job_id, "tenant", None)
    running = started(rt).job
    known = [done.job_id, canceled.job_id, running.job_id]
    tried: Counter[str] = Counter()
    answered: Counter[int] = Counter()

    def talk(case: Any) -> None:
        tried[case.operation.label] += 1
        # What is generated is never there: every other request is about something that is.
        count = tried[case.operation.label]
        if count % 2 and "job_id" in case.path_parameters:
            # One ended job is erased; the other is still wanted.
            case.path_parameters["job_id"] = known[
                count % 3 if case.method != "DELETE" else 1 + count // 2 % 2
            ]
        if count % 2 and "result_id" in case.path_parameters:
            case.path_parameters["result_id"] = done.result_id
        case.headers.pop("X-Tenant-Id", None)
        case.headers["X-Org-Id"] = ALPHA
        response = case.call()
        answered[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    with Web(rt, max_wait_seconds=0.01) as web:
        schema = schemathesis.openapi.from_asgi("/openapi.json", web.app)
        for result in schema.get_all_operations():
            assert isinstance(result, Ok)
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                strategy = result.ok().as_strategy(generation_mode=mode)
                limits = settings(
                    max_examples=12,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                # Of a route whose every text is right there is nothing wrong to be made.
                with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():
                    seed(20261123)(limits(given(strategy)(talk)))()

    assert set(tried) == {f"{route.method} {route.path}" for route in ROUTES}
    assert set(answered) >= {200, 202, 204, 400, 404, 409}


# ---------------------------------------------------------------- the page
class Loaded(HTMLParser):
    """Collects what a page loads, and its inline scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        for name, value in attrs:
            if tag != "a" and name in {"src", "href"} and value:
                self.addresses.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(name)

    def handle_data(self, data: str) -> None:
        if self._tag in {"script", "style"} and data.strip():
            self.inline.append(data)


def test_the_page_loads_nothing_from_elsewhere(web: Web) -> None:
    page = web.get("/docs")
    loaded = Loaded()
    loaded.feed(page.text)

    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert loaded.inline == []
    for address in loaded.addresses:
        assert address == "data:," or (
            address.startswith("/docs/static/") and web.get(address).status_code == 200
        )
    assert len(loaded.addresses) == 4


def test_the_page_may_load_nothing_from_elsewhere(web: Web) -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in web.get("/docs").headers["content-security-policy"].split(";")
    )

    assert policy.pop("default-src") == "'none'"
    assert policy.pop("img-src") == "'self' data:"
    assert set(policy.values()) == {"'self'", "'none'"}


def test_the_page_s_files_are_the_package_s_and_no_others(web: Web) -> None:
    script = web.get("/docs/static/swagger-ui-bundle.js")

    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["x-content-type-options"] == "nosniff"
    assert web.get("/docs/static/swagger-ui.css").headers["content-type"] == "text/css; charset=utf-8"
    assert "Apache License" in web.get("/docs/static/swagger-ui.LICENSE.txt").text
    again = web.get("/docs/static/swagger-ui-bundle.js", headers={"If-None-Match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for name in ("x", "%2e%2e%2fapp.py", "start.js%00", "START.JS"):
        assert web.get(f"/docs/static/{name}").status_code == 404
