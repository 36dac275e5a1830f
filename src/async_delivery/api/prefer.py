"""The Prefer header (RFC 7240): what a client would like, and how much of it was done.

Only the grammar and the preferences this service knows; what they mean to a route is the route's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# token [ BWS "=" BWS word ] *( OWS ";" ... ); a word is a token or a quoted string. Parameters are skipped.
_BARE = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_WORD = rf'(?:{_BARE}|"(?:[^"\\]|\\.)*")'
_PARAMETERS = r'(?:;(?:[^,;"]|"(?:[^"\\]|\\.)*")*)*'
_PREFERENCE = re.compile(rf"[ \t]*({_BARE})(?:[ \t]*=[ \t]*({_WORD})?)?[ \t]*{_PARAMETERS}")
_MAX_LENGTH = 2_000
_LONGEST = 999_999_999  # seconds, thirty years: each route cuts it to far less


@dataclass(frozen=True, slots=True)
class Prefer:
    """What was asked for.

    wait_seconds   None where no usable ``wait`` was given
    strict         ``handling=strict``: unknown things are refused rather than ignored
    """

    respond_async: bool = False
    wait_seconds: int | None = None
    strict: bool = False


NOTHING = Prefer()


def parse_prefer(values: Iterable[str]) -> Prefer:
    """The preferences of one or several Prefer headers.

    Names and known values are case-insensitive; where a preference is repeated the first one counts; what is
    unknown or malformed is ignored, as the RFC wants it.
    """
    found: dict[str, str] = {}
    for value in values:
        for name, word in _preferences(value[:_MAX_LENGTH]):
            found.setdefault(name.lower(), word)
    wait = found.get("wait", "")
    return Prefer(
        respond_async="respond-async" in found,
        wait_seconds=min(int(wait), _LONGEST) if wait.isascii() and wait.isdigit() else None,
        strict=found.get("handling", "").lower() == "strict",
    )


def _preferences(text: str) -> Iterable[tuple[str, str]]:
    position = 0
    while position < len(text):
        match = _PREFERENCE.match(text, position)
        if match and (match.end() == len(text) or text[match.end()] == ","):
            yield match[1], _unquoted(match[2] or "")
            position = match.end() + 1
        else:
            # Not a preference: go on behind the next comma.
            comma = text.find(",", position)
            position = len(text) if comma < 0 else comma + 1


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word
