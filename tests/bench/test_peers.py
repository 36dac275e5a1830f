"""Peers: what they are, what they are installed from, and what happens where one is missing."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from bench.lab import Lab
from bench.load import LoadError
from bench.peers import driving, environments, measure, processes
from bench.peers.environments import UnavailableError
from bench.peers.stacks import KINDS, Kind


class Counting:
    """A peer that completes at once; the third job goes wrong."""

    def __init__(self) -> None:
        self.done = 0

    def jobs(self, count: int) -> None:
        self.done += count

    def one(self) -> None:
        self.done += 1
        if self.done > 2:
            driving.check("short")


def spoken(monkeypatch: pytest.MonkeyPatch, *asked: dict[str, object]) -> list[dict[str, object]]:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{json.dumps(one)}\n" for one in asked)))
    monkeypatch.setattr(sys, "stdout", out)
    driving.serve(Counting())
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_driver_answers_each_line_and_tells_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = spoken(
        monkeypatch, {"do": "latency", "count": 2}, {"do": "latency", "count": 1}, {"do": "jobs", "count": 5}
    )

    assert isinstance(first["took"], list)
    assert len(first["took"]) == 2
    assert "without its result" in str(second["error"])
    assert float(str(third["seconds"])) >= 0


def test_a_result_that_is_not_whole_is_no_result() -> None:
    driving.check(driving.result())
    for found in (None, "", driving.result()[:-1]):
        with pytest.raises(RuntimeError, match="without its result"):
            driving.check(found)


def test_submitters_submit_as_often_as_they_are_asked_to() -> None:
    assert len(driving.in_threads(100, object)) == 100


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_peer_says_how_it_is_set_up(kind: Kind) -> None:
    assert len(kind.settings) > 40
    assert kind.most_jobs >= 10


@pytest.mark.parametrize(
    "file", sorted(environments.requirements("x").parent.glob("*.txt")), ids=lambda file: file.stem
)
def test_everything_that_peers_are_installed_from_is_pinned_by_hash_and_names_no_index(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    pins = re.findall(r"^[a-z0-9][^ \n]*==[^ \n]+", text, re.MULTILINE)

    assert pins
    assert len(re.findall(r"^[a-z0-9][^ \n]*==.*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(pins)
    assert "://" not in text
    assert "--index" not in text
    assert "find-links" not in text
    assert file.with_suffix(".in").exists()


def test_a_redis_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)

    with pytest.raises(UnavailableError, match="redis-server is not installed"), processes.redis(tmp_path):
        pass


def test_a_peer_that_is_missing_is_named_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path, 1, 1.0, 1.0, 1, 1, 1, 1, None)

    def missing(_lab: Lab, kind: Kind, _server: object) -> list[object]:
        if kind.name == "huey":
            return []
        raise UnavailableError(f"no {kind.name} here")

    monkeypatch.setattr(measure, "why_not", lambda: "no PostgreSQL here")
    monkeypatch.setattr(measure, "_beside", missing)
    monkeypatch.setattr(measure, "_submits", lambda _: missing(_, KINDS[0], None))

    assert measure.run(lab) == []

    assert lab.missing == {
        "beside Celery": "no celery here",
        "beside FastAPI + Celery": "no fastapi_celery here",
        "beside taskiq": "no taskiq here",
        "beside Procrastinate": "no PostgreSQL here",
        "beside DBOS": "no PostgreSQL here",
        "beside pygeoapi": "no pygeoapi here",
        "submits, beside FastAPI + Celery": "no celery here",
    }


def test_a_peer_that_breaks_ends_its_own_figures_only() -> None:
    def breaks() -> float:
        raise LoadError("it hung up")

    with pytest.raises(UnavailableError, match="it failed: it hung up"):
        measure._of_peer(breaks)
