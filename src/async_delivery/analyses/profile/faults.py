"""What DuckDB says about broken input, as one plain sentence: no paths, settings or advice for programmers."""

from __future__ import annotations

import re

from async_delivery.analyses.profile.values import cut

MIXED_LINE_ENDS = "state machine reached an invalid state"

# The first pattern that is found makes the sentence; {0}, {1}, ... are its groups.
_SENTENCES = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in (
        (r"Expected Number of Columns: 1 Found: (\d+)", "expected 1 column, found {0}"),
        (r"Expected Number of Columns: (\d+) Found: (\d+)", "expected {0} columns, found {1}"),
        (r"unterminated quote", "a quoted value does not end, or goes on after its closing quote"),
        (
            r"Invalid unicode|not utf-8 encoded",
            "the text is not UTF-8; convert the file or set params.encoding",
        ),
        (
            r"converting column \"(.*)\"\. Could not convert string \"(.*)\" to '(.+)'",
            "column {0!r}: {1!r} is no {2}",
        ),
        (
            r"Malformed JSON .*?at byte (\d+) in record/value (\d+): (.*?)\.? *(?:\n|$)",
            "malformed JSON at byte {0} of record {1}: {2}",
        ),
        (r"Object .* has duplicate key \"(.*)\"", "the key {0!r} stands twice in one object"),
        (r"Parquet file|magic bytes", "is not a Parquet file, or it is cut off"),
        (r"Maximum line size", "a line is longer than 2 MB"),
        (r"GZIP|ZSTD", "the compressed file is damaged or cut off"),
        (r"sniffing file", "the CSV's layout was not recognised; set params.delimiter and params.header"),
    )
)


def explain(problem: Exception) -> str:
    """The sentence for a DuckDB error, with the line of a CSV where DuckDB names it."""
    text = str(problem)
    line = re.search(r"CSV Error on Line: (\d+)", text)
    place = f"line {line[1]}: " if line else ""
    for pattern, sentence in _SENTENCES:
        if found := pattern.search(text):
            return place + sentence.format(*(cut(group, 80) for group in found.groups()))
    return place + _first_line(text)


def _first_line(text: str) -> str:
    first = re.sub(r"^[A-Za-z ]*Error: ", "", text.split("\n", 1)[0])
    first = re.sub(
        r"""(in |of )?(file|File) ?["'][^"']*["']:? ?|["']?/proc/self/fd/\d+["']?:? ?""", "", first
    )
    return cut(first.strip(" :") or "cannot be read", 300)
