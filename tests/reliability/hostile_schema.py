"""Requests made from the published OpenAPI file, sent to live servers; and chains of them, where one answer's id is
the next request's. Nothing of the product is imported.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
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
RECENT = 50  # of the ids that are known, so many are still used


class Target:
    """One live server, what it was asked and answered, and the ids it has given out.

    ``broken`` are answers that no request may get.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.url = f"http://127.0.0.1:{fleet.ports[0]}"
        self.session = requests.Session()
        self.known: dict[str, list[str]] = {"job_id": [], "result_id": []}
        self.answered: Counter[int] = Counter()
        self.broken: list[str] = []

    def hear(self, label: str, response: Any) -> None:
        """Judge an answer, and learn ids from it."""
        self.answered[response.status_code] += 1
        if response.status_code >= 500 and not deliberate(response):
            self.broken.append(f"{label}: {response.status_code} {response.text[:300]}")
        if response.status_code in (200, 202):
            with suppress(ValueError, TypeError):
                self._learn(response.json())

    def _learn(self, document: dict[str, Any]) -> None:
        things = [
            document,
            document.get("job") or {},
            *document.get("jobs", ()),
            *document.get("results", ()),
        ]
        for thing in things:
            for name, known in self.known.items():
                if thing.get(name) and thing[name] not in known[-RECENT:]:
                    known.append(thing[name])


class Fuzz:
    """Makes requests, each once, and sends it to every target; making one costs more than answering it."""

    def __init__(self, fleets: Sequence[Fleet], seed: int) -> None:
        self.targets = [Target(fleet) for fleet in fleets]
        self.tried: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._schema = schemathesis.openapi.from_dict(ask(fleets[0].ports[0], "GET", "/openapi.json").json())

    @property
    def cases(self) -> int:
        return sum(self.tried.values())

    def close(self) -> None:
        """Let go of the connections."""
        for target in self.targets:
            target.session.close()

    def run(self, wanted: int) -> None:
        """Make about ``wanted`` requests, spread over routes, and over right and wrong ones."""
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
        case.headers.pop("X-Tenant-Id", None)
        if self._chance.random() < 0.9:
            case.headers["X-Org-Id"] = self._chance.choice(ORGS)
        # Nobody wants to wait for what never ends.
        case.headers["Prefer"] = self._chance.choice(["wait=0", "respond-async", "handling=strict, wait=0"])
        label = case.operation.label
        self.tried[label] += 1
        # What is generated is never there: most requests are about something that is.
        there, which = self._chance.random() < 0.7, self._chance.random()
        for target in self.targets:
            for name, known in target.known.items():
                recent = known[-RECENT:]
                if there and recent and name in case.path_parameters:
                    case.path_parameters[name] = recent[int(which * len(recent))]
            target.hear(label, case.call(base_url=target.url, session=target.session, timeout=SECONDS))


def deliberate(response: Any) -> bool:
    """A 503 that says what is the matter, or that a check of readiness failed, is an answer like any other."""
    if response.status_code != 503:
        return False
    document = response.json()
    return document.get("code") == "unavailable" or "checks" in document
