"""An exception as a list of short texts: where it came from, without what it was given.

Messages of the kinds that quote their input (a number that is none, a key that is missing) are left out, and so is
all but the first line of others (databases put the row into the second): what is quoted may be a tenant's. Where it
happened says enough. Imports the standard library only.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from traceback import extract_tb

_MAX_FRAMES = 30
_MAX_CHAIN = 8
_MAX_MESSAGE = 500
_QUOTING = (ValueError, LookupError, TypeError, AttributeError, NameError, SyntaxError)
_REPR = re.compile(r"([A-Za-z_]\w*)\(")


def one_error(exc: BaseException) -> str:
    """``OSError: [Errno 28] No space left on device``, or ``KeyError`` alone."""
    kind = type(exc).__name__
    if isinstance(exc, _QUOTING):
        return kind
    message = str(exc).strip().partition("\n")[0][:_MAX_MESSAGE]
    return f"{kind}: {message}" if message else kind


def without_input(text: str) -> str:
    """``repr`` of an exception, told as ``one_error`` would; any other text as it is."""
    found = _REPR.match(text)
    kind = getattr(builtins, found[1], None) if found else None
    return found[1] if found and isinstance(kind, type) and issubclass(kind, _QUOTING) else text


def story(exc: BaseException) -> list[str]:
    """Frames as ``file:line function``, the outermost first, each error after its own; causes before effects."""
    told: list[str] = []
    for one in reversed(list(_chain(exc))):
        frames = extract_tb(one.__traceback__, limit=-_MAX_FRAMES)
        told += [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        told.append(one_error(one))
    return told


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """``exc``, then what is behind it: its cause, what it was raised during, or the members of a group."""
    seen: set[int] = set()
    waiting = [exc]
    while waiting and len(seen) < _MAX_CHAIN:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions)
        if one.__cause__ is not None:
            waiting.append(one.__cause__)
        elif one.__context__ is not None and not one.__suppress_context__:
            waiting.append(one.__context__)
