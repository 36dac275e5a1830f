from __future__ import annotations

import json
import logging
import unicodedata
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.engine import jobs
from async_delivery.engine.runtime import Runtime
from async_delivery.ops.logs import json_line, text_line
from tests.api.support import Web
from tests.engine.support import claimed, completed, published, submitted
from tests.ops.logbook import ANSWERED, Page

# ---------------------------------------------------------------- what is never said

CANARY = "c4n4ry"


def test_nothing_of_a_body_a_header_a_query_string_or_a_tenants_words_gets_into_the_log(
    page: Page, rt: Runtime, monkeypatch: Any
) -> None:
    body = {
        "query": f"{CANARY}-query",
        "params": {"upto": 3},
        "labels": {"owner": f"{CANARY}-label"},
        "options": {"async_mode": {"requested": True}},
    }
    headers = {
        "Authorization": f"Bearer {CANARY}-token",
        "Cookie": f"session={CANARY}",
        "User-Agent": CANARY,
        "Idempotency-Key": f"{CANARY}-key",
        "X-Api-Key": CANARY,
    }

    with page.log("debug"), Web(rt) as web:
        web.submit(body, headers=headers)
        web.submit({**body, "params": {CANARY: 1}, "timeout_seconds": CANARY}, headers={"Prefer": CANARY})
        web.post("/analyze", content=f'{{"{CANARY}":'.encode(), headers={"Content-Type": "application/json"})
        web.get(f"/analyze/jobs?label.owner={CANARY}&cursor={CANARY}", headers=headers)
        web.get(f"/analyze/results/00000000-0000-7000-8000-000000000000?view={CANARY}", headers=headers)
        web.get(f"/{CANARY}?token={CANARY}", headers=headers)
        run = claimed(rt)
        published(rt, run, {"rows": CANARY}, stage=CANARY, message=CANARY)
        done = completed(rt, run, {"rows": CANARY})
        web.get(f"/analyze/results/{done.result_id}?{CANARY}", headers=headers)
        again = submitted(rt, query=CANARY)
        web.post(f"/analyze/jobs/{again.job_id}/cancel", json={"reason": CANARY}, headers=headers)

        def broken(*_: Any) -> None:
            raise ValueError(f"cannot read {body} of {headers}")

        monkeypatch.setattr(jobs, "list_jobs", broken)
        web.get(f"/analyze/jobs?{CANARY}=1", headers=headers)
        telemetry.emit("slot.failed", error=repr(KeyError(CANARY)), job_id=None)

    assert len(page.records("http.answered")) >= 8
    assert [one["error"] for one in page.records("log.message") if "error" in one] == ["ValueError"]
    assert page.records("slot.failed")[0]["error"] == "KeyError"
    assert page.records("job.canceled") or page.records("job.cancel_requested")
    assert CANARY not in page.text()


def test_what_looks_like_a_secret_is_taken_out_of_words_written_elsewhere(page: Page) -> None:
    with page.log():
        logging.getLogger("x").warning("connecting to postgresql://bob:hunter2hunter2@db/jobs")
        telemetry.emit("chore.failed", chore="prune", error="OSError('password=hunter2hunter2')", seconds=1)
        telemetry.emit("cleanup.paused", why="token whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw leaked", by="ops")

    assert "hunter2" not in page.text()
    assert "whsec_Mf" not in page.text()
    assert len(page.records()) == 3


def test_of_a_databases_message_only_the_first_line_is_told(page: Page) -> None:
    class DatabaseError(Exception):
        pass

    with page.log():
        logging.getLogger("x").error(
            "lost", exc_info=DatabaseError(f"duplicate key\nDETAIL: Key (query)=({CANARY}) exists")
        )

    assert page.records()[0]["error"] == "DatabaseError: duplicate key"
    assert CANARY not in page.text()


# ---------------------------------------------------------------- one record, one line

CORPUS = [
    *[chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))],
    "\x1b[2J\x1b[1;31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\r\nb",
    "fake\n2026-03-01T12:00:00.000Z error chore.failed",
    '"}\n{"ts":"2026-03-01T12:00:00.000Z","event":"http.answered"',
    "line\u2028separator\u2029paragraph\x85next",
    "\u202egnp.exe\u202c",
    "\u2066isolate\u2069\u061c\u200e\u200f",
    "zero\u200bwidth\u200d\ufeffmark\u2060",
    "soft\xadhyphen\u180e",
    "tags\U000e0001\U000e0041\U000e007f",
    "half \ud800 pair \udfff",
    "\\u001b is text",
    'quote " and \\ backslash',
    "größe = 5 ≤ 7 漢字 😀",
    "a=b c='d'",
    "",
    " ",
    "[1]",
    "{x}",
]
_OBEYED = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def harmless(line: str) -> bool:
    """One line without a character that a terminal or a reader of lines would obey."""
    return len(line.splitlines()) == 1 and not any(unicodedata.category(char) in _OBEYED for char in line)


@pytest.mark.parametrize("value", CORPUS, ids=lambda value: ascii(value)[:30])
def test_one_record_is_one_harmless_line_whatever_stands_in_a_value(page: Page, value: str) -> None:
    with page.log():
        telemetry.emit("http.answered", **{**ANSWERED, "org_id": value, "method": value})
        telemetry.emit("chore.failed", chore=value, error=value, seconds=1)
        logging.getLogger(value or "x").error("said %s", value, exc_info=RuntimeError(value))

    lines = page.text().split("\n")[:-1]
    assert len(lines) == 3
    assert all(harmless(line) for line in lines)
    if value.isprintable() or value.encode("utf-8", "ignore").decode() == value:
        assert json.loads(lines[0])["org_id"] == value
        assert json.loads(lines[1])["chore"] == value


@pytest.mark.parametrize("value", CORPUS, ids=lambda value: ascii(value)[:30])
def test_the_text_form_is_one_harmless_line_too(page: Page, value: str) -> None:
    with page.log(form="text"):
        telemetry.emit("http.answered", **{**ANSWERED, "org_id": value})
        logging.getLogger("x").error("said %s", value, exc_info=RuntimeError(value))

    lines = page.text().split("\n")[:-1]
    assert len(lines) == 2
    assert all(harmless(line) for line in lines)


def test_every_printable_character_beyond_ascii_survives_and_every_other_is_escaped() -> None:
    for code in (*range(0xD800), *range(0xE000, 0x30000), *range(0xE0000, 0xE1000)):
        line = json_line({"v": f"a{chr(code)}b"}).decode()
        assert line.endswith("\n")
        assert harmless(line[:-1]), hex(code)
        assert json.loads(line)["v"] == f"a{chr(code)}b"


def test_the_text_form_reads_like_a_line_for_people() -> None:
    event = {
        "ts": "2026-03-01T12:00:00.000Z",
        "level": "info",
        "event": "x.y",
        "a": "plain",
        "b": "two words",
    }

    line = text_line(None, "info", {**event, "c": 1.5, "d": True, "e": ["f", 1], "g": "[h"})

    assert line == (
        b'2026-03-01T12:00:00.000Z info x.y a=plain b="two words" c=1.5 d=true e=["f",1] g="[h"\n'
    )


def test_a_value_of_an_unknown_kind_is_told_by_its_kind(page: Page) -> None:
    class Vault:
        def __str__(self) -> str:
            return CANARY

    with page.log():
        telemetry.emit("worker.started", worker_id=Vault(), slots=2**80, rescued=[2**70, {1: Vault()}])

    (record,) = page.records()
    assert (record["worker_id"], record["slots"]) == ("<Vault>", str(2**80))
    assert CANARY not in page.text()


def test_long_words_are_cut(page: Page) -> None:
    with page.log():
        logging.getLogger("x").error("z " * 1_000_000)

    assert len(page.text()) < 5_000
