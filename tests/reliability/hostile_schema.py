"""Requests made from the published OpenAPI file, sent to a live server; and chains of them, where one answer's id is
the next request's. Nothing of the product is imported.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.reliability.fleet import Fleet
from tests.reliability.traffic import ask

ORGS = ("alpha", "beta", "gamma")
SECONDS = 60.0


class Fuzz:
    """Counts what was asked and answered. ``broken`` are answers that no request may get."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet, self._seed = fleet, seed
        self._chance = random.Random(seed)
        self.tried: Counter[str] = Counter()
        self.answered: Counter[int] = Counter()
        self.broken: list[str] = []
        # What the service has given out: of these, later requests take their ids.
        self._known: dict[str, list[str]] = {"job_id": [], "result_id": []}
        port = fleet.ports[0]
        self._url = f"http://127.0.0.1:{port}"
        document = ask(port, "GET", "/openapi.json").json()
        self._session = requests.Session()
        self._schema = schemathesis.openapi.from_dict(document)

    @property
    def cases(self) -> int:
        return sum(self.tried.values())

    def close(self) -> None:
        """Let go of the connection."""
        self._session.close()

    def run(self, wanted: int) -> None:
        """Send about ``wanted`` requests, spread over routes, and over right and wrong ones."""
        operations = [result.ok() for result in self._schema.get_all_operations() if isinstance(result, Ok)]
        while self.cases < wanted:
            examples = max(4, min(200, (wanted - self.cases) // (2 * len(operations)) + 1))
            for operation in operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    self._feed(operation.as_strategy(generation_mode=mode), examples)

    def _feed(self, strategy: Any, examples: int) -> None:
        limits = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        # Of a route whose every text is right there is nothing wrong to be made.
        with suppress(Unsatisfiable):
            with_seed(self._chance.getrandbits(64))(limits(given(strategy)(self._send)))()  # type: ignore[no-untyped-call]

    def _send(self, case: Any) -> None:
        for name, known in self._known.items():
            # What is generated is never there: most requests are about something that is.
            if name in case.path_parameters and known and self._chance.random() < 0.7:
                case.path_parameters[name] = self._chance.choice(known[-50:])
        case.headers.pop("X-Tenant-Id", None)
        if self._chance.random() < 0.9:
            case.headers["X-Org-Id"] = self._chance.choice(ORGS)
        # Nobody wants to wait for what never ends.
        case.headers["Prefer"] = self._chance.choice(["wait=0", "respond-async", "handling=strict, wait=0"])
        self.tried[case.operation.label] += 1
        response = case.call(base_url=self._url, session=self._session, timeout=SECONDS)
        self.answered[response.status_code] += 1
        if response.status_code >= 500 and not deliberate(response):
            self.broken.append(f"{case.operation.label}: {response.status_code} {response.text[:300]}")
        self._learn(response)

    def _learn(self, response: Any) -> None:
        if response.status_code not in (200, 202):
            return
        with suppress(ValueError, TypeError):
            document = response.json()
            for one in [
                document,
                document.get("job") or {},
                *document.get("jobs", ()),
                *document.get("results", ()),
            ]:
                for name, known in self._known.items():
                    if one.get(name) and one[name] not in known[-50:]:
                        known.append(one[name])


def deliberate(response: Any) -> bool:
    """A 503 that says what is the matter, or that a check of readiness failed, is an answer like any other."""
    if response.status_code != 503:
        return False
    document = response.json()
    return document.get("code") == "unavailable" or "checks" in document
