"""What the page of reliability shows of scorecards: the most cases, and whatever missed its target."""

from __future__ import annotations

from tests.reliability.page import BEGIN, END, render
from tests.reliability.scorecard import Form, Measurement, Scorecard


def entered(page: str, measured: float, cases: int, form: Form = "long") -> str:
    card = Scorecard()
    card.record(Measurement("R1", "sqlite", form, measured, cases, 7, "test_it"))
    return render(page, card.as_json()["measurements"])


def row(page: str) -> str:
    (line,) = [line for line in page.splitlines() if line.startswith("| R1 |")]
    return line


EMPTY = f"before {BEGIN} {END} after"


def test_a_short_form_does_not_replace_what_more_cases_have_shown() -> None:
    long = entered(EMPTY, 0, 500)

    assert "SQLite 0 in 500, seed 7" in row(long)
    assert entered(long, 0, 40, "short") == long
    assert "0 in 500" in row(entered(entered(EMPTY, 0, 40, "short"), 0, 500))


def test_a_miss_is_entered_however_few_its_cases() -> None:
    assert "SQLite **missed** 1 in 40" in row(entered(entered(EMPTY, 0, 500), 1, 40, "short"))


def test_what_no_card_has_measured_and_the_text_around_stay() -> None:
    page = entered(EMPTY, 0, 500)

    assert render(page, []) == page
    assert page.startswith("before ")
    assert page.endswith(" after")
