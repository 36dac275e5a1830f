"""Which text a store can keep: all of Unicode but U+0000 and halves of surrogate pairs.

PostgreSQL has no place for the first in a text and UTF-8 none for the second, so on no store is either kept. What a
tenant sends is refused, because a bent request would be another one; what an analysis says of itself is mended,
because losing a job over a stray character would be worse.
"""

from __future__ import annotations

import re

REFUSAL = "must not contain U+0000 or half of a surrogate pair"

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """True if a store can keep ``text`` as it is."""
    # isascii is known without a look at the text, and nearly all text is.
    return "\0" not in text and (text.isascii() or _UNSTORABLE.search(text) is None)


def storable(text: str) -> str:
    """``text`` with U+FFFD in the place of each character that no store can keep."""
    return text if is_storable(text) else _UNSTORABLE.sub("\ufffd", text)
