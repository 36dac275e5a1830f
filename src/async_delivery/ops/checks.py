"""Checks that run one after the other: their shape, how they are carried out, and how others read them.

Knows nothing of what is checked. Imports ``domain``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from xml.etree import ElementTree as ET

from async_delivery.domain.errors import AsyncDeliveryError


class CheckFailed(Exception):  # noqa: N818  the outcome of a check, no fault of the program
    """What is broken and what to look at, in one line."""


class CheckSkipped(Exception):  # noqa: N818  the same
    """Why it was not carried out, in one line."""


@dataclass(frozen=True, slots=True)
class Check:
    """One named check.

    ok        None: skipped
    detail    one line: what was seen; what is broken and what to look at; or why it was skipped
    seconds   how long it took
    """

    id: str
    ok: bool | None
    detail: str
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """``ok``, ``failed`` or ``skipped``."""
        return "skipped" if self.ok is None else "ok" if self.ok else "failed"

    def to_json(self) -> dict[str, Any]:
        """As output and artefact show it."""
        return {
            "id": self.id,
            "ok": self.ok,
            "outcome": self.outcome,
            "detail": self.detail,
            "seconds": round(self.seconds, 3),
        }


class Checklist:
    """Carries checks out and keeps what came of them. A check that breaks fails; the list goes on.

    done   hears of each check when it is over
    """

    def __init__(self, done: Callable[[Check], None] = lambda _check: None) -> None:
        self.checks: list[Check] = []
        self._done = done

    def run(self, check_id: str, work: Callable[[], str], *, needs: Sequence[str] = ()) -> bool:
        """Carry out ``work``, which returns what it saw; True if it is ok. Skipped unless all it needs is ok."""
        began = perf_counter()
        missing = [need for need in needs if not self.is_ok(need)]
        if missing:
            return self._keep(Check(check_id, None, f"not run: it needs {missing[0]}"))
        ok: bool | None = False
        try:
            detail, ok = work(), True
        except CheckFailed as exc:
            detail = str(exc)
        except CheckSkipped as exc:
            detail, ok = str(exc), None
        except AsyncDeliveryError as exc:
            detail = exc.message
        except Exception as exc:  # noqa: BLE001  the list must end, and say what broke
            detail = f"cannot be judged: {type(exc).__name__}: {exc}"
        return self._keep(Check(check_id, ok, " ".join(detail.split()), perf_counter() - began))

    def _keep(self, check: Check) -> bool:
        self.checks.append(check)
        self._done(check)
        return check.ok is True

    def is_ok(self, check_id: str) -> bool:
        """True if this check was carried out and is ok."""
        return any(check.id == check_id and check.ok for check in self.checks)

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.ok is False]


def junit(name: str, checks: Sequence[Check], started_at: str) -> bytes:
    """The checks as a JUnit document, for a CI system that shows such."""
    counts = {
        "tests": len(checks),
        "failures": sum(check.ok is False for check in checks),
        "errors": 0,
        "skipped": sum(check.ok is None for check in checks),
    }
    figures = {key: str(count) for key, count in counts.items()}
    figures["time"] = f"{sum(check.seconds for check in checks):.3f}"
    root = ET.Element("testsuites", {"name": name, **figures})
    suite = ET.SubElement(root, "testsuite", {"name": name, "timestamp": started_at, **figures})
    for check in checks:
        case = ET.SubElement(
            suite, "testcase", {"classname": name, "name": check.id, "time": f"{check.seconds:.3f}"}
        )
        detail = _printable(check.detail)
        if check.ok is None:
            ET.SubElement(case, "skipped", {"message": detail})
        elif not check.ok:
            ET.SubElement(case, "failure", {"message": detail, "type": "CheckFailed"})
        else:
            ET.SubElement(case, "system-out").text = detail
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _printable(text: str) -> str:
    """XML has no place for control characters and lone surrogates."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
