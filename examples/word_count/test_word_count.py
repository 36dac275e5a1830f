"""Tests of the word count, with nothing but the function and ``run_inline``."""

from pathlib import Path

import pytest
from word_count import word_count

from async_delivery.plugins import InvalidInputError
from async_delivery.testing import run_inline


def test_words_are_counted_whatever_their_case() -> None:
    run = run_inline(word_count, {"top": 1}, query="The cat and the dog and THE bird")

    assert run.result == {"lines": 1, "words": 8, "top": [["the", 3]]}


def test_a_long_file_gives_partial_results(tmp_path: Path) -> None:
    file = tmp_path / "poem.txt"
    file.write_text("so much depends\nupon\n" * 3)

    run = run_inline(word_count, {"lines_per_partial": 2}, input=file)

    assert [partial["lines"] for partial in run.partials] == [2, 4, 6]
    assert run.result["words"] == 12


def test_nothing_to_count_is_an_error_of_the_request() -> None:
    with pytest.raises(InvalidInputError):
        run_inline(word_count)
