"""Statements on SQLite with their parameters by place instead of by name.

Python's sqlite3 asks the library for the name of each named parameter, one by one, and lets go of the interpreter's
lock around each question: a row of forty columns then wakes whoever waits for that lock forty times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, cast

from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement

from async_delivery.storage.dialects import compile_text
from async_delivery.storage.reading import Cursor, Params, SqlReader

_BY_PLACE: Dialect = sqlite_dialect(paramstyle="qmark")

Pick = Callable[[Params], Sequence[Any]]


class PlacedTexts(dict[ClauseElement, tuple[str, Pick]]):
    """Statement -> its text, and what puts its parameters in their places; made when first asked for."""

    def __missing__(self, statement: ClauseElement) -> tuple[str, Pick]:
        text = compile_text(statement, _BY_PLACE)
        compiled = cast(SQLCompiler, statement.compile(dialect=_BY_PLACE))
        made = self[statement] = text, _in_places(compiled.positiontup or [])
        return made


def _in_places(names: Sequence[str]) -> Pick:
    match names:
        case []:
            return lambda params: ()
        case [name]:
            return lambda params: (params[name],)
        case _:
            return itemgetter(*names)


PLACED = PlacedTexts()


class PlacedReader(SqlReader):
    """A Reader on SQLite whose statements are run by place."""

    def run(self, statement: ClauseElement, params: Params) -> Cursor:
        text, pick = PLACED[statement]
        return self._connection.execute(text, pick(params))
