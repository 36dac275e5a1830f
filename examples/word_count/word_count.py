"""Counts the words of a text, in pieces, so that a tenant can watch and stop it."""

from collections import Counter
from typing import Annotated, Any

from pydantic import Field

from async_delivery.plugins import Context, InvalidInputError, analysis


@analysis("word-count", version="1", input="optional", timeout_seconds=600, memory_bytes=512 * 2**20)
def word_count(
    *,
    top: Annotated[int, Field(ge=1, le=1000, description="Most frequent words to return")] = 10,
    lines_per_partial: Annotated[int, Field(ge=1, description="Lines between two partial results")] = 10_000,
    context: Context,
) -> dict[str, Any]:
    """Count the words of an uploaded text file, or of the query itself."""
    if context.input is not None:
        lines = context.input.path.read_text(encoding="utf-8", errors="replace").splitlines()
    elif context.query:
        lines = context.query.splitlines()
    else:
        raise InvalidInputError("query", "give some text, or upload a file")

    words: Counter[str] = Counter()
    for number, line in enumerate(lines, start=1):
        words.update(line.lower().split())
        if number % lines_per_partial == 0:
            # Stops here if the tenant has asked to cancel.
            context.partial(
                {"lines": number, "top": words.most_common(top)}, percent=99 * number / len(lines)
            )

    return {"lines": len(lines), "words": words.total(), "top": words.most_common(top)}
