"""What clients did and were told, on a disk: each line is durable before the next thing happens.

An operation is written down before it is sent, and again with what came back. One without an answer has an unknown
outcome. Nothing of the product is imported.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    """How an operation ended, as its client knows it."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Operation:
    """One thing that a client did. ``facts`` is what was sent and, once there is an answer, what it said."""

    number: int
    kind: str
    org_id: str
    facts: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome = Outcome.UNKNOWN


class Journal:
    """An append-only file of JSON lines; safe for many threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._number = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def sending(self, kind: str, org_id: str, **facts: Any) -> int:
        """Write down what is about to be sent; its number."""
        with self._lock:
            self._number += 1
            self._append({"n": self._number, "kind": kind, "org_id": org_id, **facts})
            return self._number

    def answered(self, number: int, outcome: Outcome, **facts: Any) -> None:
        """Write down what came back."""
        with self._lock:
            self._append({"n": number, "outcome": str(outcome), **facts})

    def saw(self, kind: str, org_id: str, **facts: Any) -> None:
        """Write down what a read answered: one line, as nothing was changed by asking."""
        with self._lock:
            self._number += 1
            line = {"n": self._number, "kind": kind, "org_id": org_id, "outcome": "acknowledged", **facts}
            self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read_journal(path: Path) -> list[Operation]:
    """The operations in the order in which they were sent. A last line without its end was never finished."""
    found: dict[int, Operation] = {}
    for line in _whole_lines(path):
        number = line.pop("n")
        outcome = Outcome(line.pop("outcome", Outcome.UNKNOWN))
        if number not in found:
            found[number] = Operation(number, line.pop("kind"), line.pop("org_id"))
        operation = found[number]
        operation.outcome = outcome
        operation.facts |= line
    return [found[number] for number in sorted(found)]


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_bytes()
    for line in text[: text.rfind(b"\n") + 1].splitlines():
        yield json.loads(line)
