"""The runbook in docs/api, German and English: followed from top to bottom, held to the code and to each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from async_delivery.domain.signal import (
    BASELINE_SECONDS,
    EVENTS_DELETE_COUNT,
    RESULTS_DELETE_COUNT,
    SPECS,
    SPIKE_FACTOR,
    SignalExit,
    SignalSpec,
)
from async_delivery.domain.smoke import PROD, STAGING
from tests.docs.expectations import PARTS
from tests.docs.pages import ROOT, code, fences, read, rows, without_fences
from tests.docs.runbook import PAGES, SHELLS, Operator, bullets, parts, sections, titled

GERMAN, ENGLISH = read(PAGES["de"]), read(PAGES["en"])
LANGUAGES = pytest.mark.parametrize("language", sorted(PAGES))
# What the runbook has always told, section by section.
SECTIONS = {
    "Ziel": "Goal",
    "Voraussetzungen": "Prerequisites",
    "Operate-/Diagnose-Schritte (reproduzierbar)": "Steps to operate and diagnose (repeatable)",
    "1) Result-Permalink prüfen": "1) Check the result permalink",
    "2) Job-Status + Notification-Read prüfen": "2) Check job status + reading of notifications",
    "3) Retention Dry-Run (vor produktivem Cleanup)": "3) Retention dry run (before a live cleanup)",
    "4) Produktiver Cleanup": "4) Live cleanup",
    "Monitoring-Mindestmetriken + Alert-Hinweise": "Minimum monitoring metrics + hints for alerts",
    "Smoke-Checkliste Staging": "Smoke checklist staging",
    "Smoke-Checkliste Prod": "Smoke checklist prod",
    "Incident-Triage (Kurzablauf)": "Incident triage (in short)",
    "Nachweis / Regression": "Evidence / regression",
}
MONITORING = {"de": "Monitoring", "en": "Minimum monitoring"}
SMOKE = {"de": "Smoke-Checkliste", "en": "Smoke checklist"}


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    one = Operator(tmp_path, "--slots", "2")
    yield one
    one.close()


# ---------------------------------------------------------------- it runs


@pytest.mark.slow
@LANGUAGES
def test_every_command_works_as_it_is_written_and_every_expectation_is_met(
    operator: Operator, language: str
) -> None:
    page = read(PAGES[language])
    done = 0

    for part, expected in zip(parts(page), PARTS, strict=True):
        operator.follow(part)
        done += len(part.blocks)
        for each in expected:
            each.check(operator)

    assert done == len([block for block in fences(page) if block.language in SHELLS]) >= 6


@LANGUAGES
def test_every_expectation_has_its_check(language: str) -> None:
    listed = [part.expected for part in parts(read(PAGES[language]))]

    assert listed == [tuple(getattr(each, language) for each in part) for part in PARTS]


@LANGUAGES
def test_every_block_is_a_command_that_is_run(language: str) -> None:
    page = read(PAGES[language])

    assert {block.language for block in fences(page)} <= SHELLS
    assert re.findall(r"^ +```", page, flags=re.MULTILINE) == []


def test_a_list_without_its_check_would_be_noticed() -> None:
    changed = GERMAN.replace("- HTTP `200`\n", "- HTTP `200`\n- und zwar schnell\n")

    assert parts(changed)[0].expected != parts(GERMAN)[0].expected
    assert bullets("\n\n- one\n- two\n\n- three") == ("one", "two")
    assert parts("```sh\nfalse\n```\n\nExpected:\n\n- exit `3`\n")[0].exit_code == 3


# ---------------------------------------------------------------- two languages, one runbook


def test_both_languages_have_the_same_sections() -> None:
    found = [(each.level, each.title) for each in sections(GERMAN)][1:]
    english = [(each.level, each.title) for each in sections(ENGLISH)][1:]

    assert [level for level, _ in found] == [level for level, _ in english]
    pairs = {one: other for (_, one), (_, other) in zip(found, english, strict=True)}
    assert {title: pairs.get(title) for title in SECTIONS} == SECTIONS
    assert [title for _, title in found if title in SECTIONS] == list(SECTIONS)


def test_both_languages_have_the_same_commands() -> None:
    assert [(each.language, each.text) for each in fences(GERMAN)] == [
        (each.language, each.text) for each in fences(ENGLISH)
    ]


def test_both_languages_have_the_same_names_and_numbers_in_every_section() -> None:
    for german, english in zip(sections(GERMAN), sections(ENGLISH), strict=True):
        assert spans(german.text) == spans(english.text), german.title
        assert numbers(german.text) == numbers(english.text), german.title
        assert links(german.text) == links(english.text), german.title


def test_a_number_or_name_that_differs_would_be_noticed() -> None:
    assert numbers("at `>1%` in 5m, 7d") == Counter({"5": 1, "7": 1})
    assert spans("a `b` and ``c``\n```sh\n`d`\n```\n") != spans("a `b`\n")
    assert links("[a](async-v1.en.md#x), [b](../howto/monitor.md)") == links(
        "[A](async-v1.md#x), [B](../howto/monitor.md)"
    )


def spans(text: str) -> Counter[str]:
    """What stands in backticks."""
    return Counter(code(without_fences(text)))


def numbers(text: str) -> Counter[str]:
    """The numbers of the prose, those in backticks and link targets left out."""
    prose = re.sub(r"`[^`]+`|\]\([^)]*\)|^\d+\. ", " ", without_fences(text), flags=re.MULTILINE)
    return Counter(re.findall(r"\d+(?:[.,]\d+)*", prose))


def links(text: str) -> list[str]:
    """Where the links of a text lead, the pages of the runbook as one."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_fences(text))
    return [re.sub(r"^async-v1(?:\.en)?\.md", "RUNBOOK", each).partition("#")[0] for each in found]


# ---------------------------------------------------------------- the signals


@LANGUAGES
def test_the_signals_and_their_thresholds_are_those_of_the_code(language: str) -> None:
    table = rows(titled(language, MONITORING[language]).text)

    names = [name for row in table for name in code(row[0])]
    assert names == [spec.name for spec in SPECS]
    told = {name: thresholds(row[2]) for row in table for name in code(row[0])}
    assert told == {spec.name: of_spec(spec) for spec in SPECS}


def thresholds(cell: str) -> set[tuple[str, str]]:
    """(level, what the cell says it begins at)"""
    words = {"Warnung": "warning", "warning": "warning", "kritisch": "critical", "critical": "critical"}
    said = re.findall(r"(Warnung|warning|kritisch|critical)(?:\*\*)? (?:bei|at) `>([^`]+)`", cell)
    found = {(words[word], value) for word, value in said}
    if re.search(r"(?:[Mm]uss|must be|Must be) `0`", cell):
        found.add(("critical", "0"))
    if re.search(r"Alert bei|alert at", cell):
        found |= {("warning", factor) for factor in re.findall(r"`>(\d+x)`", cell)}
    return found


def of_spec(spec: SignalSpec) -> set[tuple[str, str]]:
    """The same of a spec."""
    if spec in {RESULTS_DELETE_COUNT, EVENTS_DELETE_COUNT}:
        return {("warning", f"{SPIKE_FACTOR:g}x")}
    scale, unit = {"ratio": (100, "%"), "ms": (1, "ms")}.get(spec.unit, (1, ""))
    levels = {"warning": spec.warning, "critical": spec.critical}
    return {(level, f"{scale * value:g}{unit}") for level, value in levels.items() if value is not None}


@LANGUAGES
def test_a_signals_window_is_in_its_row(language: str) -> None:
    for row in rows(titled(language, MONITORING[language]).text):
        for name in code(row[0]):
            spec = next(each for each in SPECS if each.name == name)
            span = re.search(r"_(\d+)m$", name)
            assert span is None or int(span[1]) * 60 == spec.window_seconds
            assert (spec.window_seconds == BASELINE_SECONDS) is ("7d" in row[2])


@LANGUAGES
def test_the_page_tells_every_exit_code_of_the_signals(language: str) -> None:
    (line,) = [
        each for each in titled(language, MONITORING[language]).text.split("\n") if each.startswith("Exit")
    ]

    assert [int(each) for each in code(line)] == sorted(SignalExit)


def test_the_english_hints_are_those_that_the_service_gives() -> None:
    table = rows(titled("en", MONITORING["en"]).text)

    for spec in SPECS:
        (row,) = [row for row in table if spec.name in code(row[0])]
        assert spec.hint in row[3].replace("`", "")


# ---------------------------------------------------------------- the checklists


@LANGUAGES
def test_each_line_of_the_staging_checklist_is_one_named_check(language: str) -> None:
    assert named(titled(language, f"{SMOKE[language]} staging").text) == STAGING


@LANGUAGES
def test_each_line_of_the_prod_checklist_is_one_named_check(language: str) -> None:
    assert named(titled(language, f"{SMOKE[language]} prod").text) == PROD


def named(text: str) -> tuple[str, ...]:
    """The ids at the beginning of the lines of a list."""
    return tuple(re.findall(r"^(?:\d+\.|   -) `(\w+)`: ", text, flags=re.MULTILINE))


# ---------------------------------------------------------------- evidence


@LANGUAGES
def test_the_evidence_is_there(language: str) -> None:
    evidence = titled(language, "Nachweis" if language == "de" else "Evidence")
    files = code(evidence.text)

    assert len(files) >= 4
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_the_old_name_leads_to_both_pages() -> None:
    pointer = read("docs/api/async-delivery-ops-runbook-v1.md")

    assert {"async-v1.md", "async-v1.en.md"} <= set(re.findall(r"\]\(([^)]+)\)", pointer))
    assert not rows(pointer)
    assert not fences(pointer)
