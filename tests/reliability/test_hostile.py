"""R15: whatever is sent is refused with the one error body, or the connection ends; the same on both stores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on
from tests.reliability.hostile import Reply, Request, faults_of, message, send
from tests.reliability.hostile_corpus import everything
from tests.reliability.traffic import ask

AT_A_TIME = 4
ECHO = ("--analysis", "tests.worker.misbehaving:echo")


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fleet]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                fleet_on(store, tmp_path_factory.mktemp(store), *ECHO, servers=1, workers=1, slots=2)
            )
            for store in ("sqlite", "postgres")
        ]


def answers(fleet: Fleet, corpus: list[Request]) -> list[list[Reply] | None]:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(lambda one: send(fleet.ports[0], one.data), corpus))


@pytest.mark.slow
@pytest.mark.postgres
def test_no_request_of_the_corpus_breaks_an_answer_or_a_store_answers_otherwise(
    fleets: list[Fleet], score: Score
) -> None:
    openapi: dict[str, Any] = ask(fleets[0].ports[0], "GET", "/openapi.json").json()
    corpus = everything(openapi)

    found = [answers(fleet, corpus) for fleet in fleets]

    wrong: list[str] = []
    for fleet, replies in zip(fleets, found, strict=True):
        for request, some in zip(corpus, replies, strict=True):
            wrong += [f"{fleet.store}: {fault}" for fault in faults_of(request, some)]
    for request, one, other in zip(corpus, *found, strict=True):
        left, right = [reply.same for reply in one or ()], [reply.same for reply in other or ()]
        if left != right:
            wrong.append(f"{request.name}: the stores differ: {left} {right}")
    for fleet in fleets:
        assert send(fleet.ports[0], message("GET", b"/health")) is not None
        log = (fleet.servers[0].folder / "server.log").read_text(errors="replace")
        wrong += [
            f"{fleet.store} log: {line[:300]}" for line in log.splitlines() if '"level":"error"' in line
        ]
    print(*wrong[:60], sep="\n")
    score("R15", "-", len(wrong), cases=2 * len(corpus))
