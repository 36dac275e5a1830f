"""What the statements need and SQLAlchemy has no word for, in both dialects; and statement to text, once.

Executing through SQLAlchemy costs several times what the driver costs. So each statement is compiled once per
dialect to text with named parameters, and the text is run on the driver's own connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sqlalchemy import BigInteger, Boolean, Select, bindparam, literal_column
from sqlalchemy.dialects.postgresql import dialect as postgresql_dialect
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.sql.expression import ClauseElement
from sqlalchemy.sql.functions import FunctionElement

from async_delivery.storage.cells import MAX_INSTANT, MIN_INSTANT

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler

SQLITE: Dialect = sqlite_dialect(paramstyle="named")
POSTGRESQL: Dialect = postgresql_dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]
# On PostgreSQL everything is in a schema of its own, so that nothing of the owner's is in the way. Each statement
# names it: a search_path would not survive a pooler that lends connections by the transaction.
POSTGRESQL_SCHEMA = "async_delivery"

AnySelect: TypeAlias = Select[*tuple[Any, ...]]

ZERO: ColumnElement[int] = literal_column("0", BigInteger)
ONE: ColumnElement[int] = literal_column("1", BigInteger)


def param(name: str) -> BindParameter[Any]:
    """A named parameter."""
    return bindparam(name)


class _Condition(FunctionElement[bool]):
    """A condition that stands by itself: for a plain boolean SQLAlchemy writes ``= 1`` on SQLite, which hides an
    IN from the planner."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        return self


class valid_instant(_Condition):  # noqa: N801  reads as the SQL function it stands for
    """True for an instant a datetime can hold, and only for a whole number: text sorts above all numbers."""

    inherit_cache = True
    name = "valid_instant"


@compiles(valid_instant, "sqlite")
def _valid_instant_sqlite(element: valid_instant, compiler: Any, **kw: Any) -> str:
    value = compiler.process(element.clauses, **kw)
    return f"(typeof({value}) = 'integer' AND {value} BETWEEN {MIN_INSTANT} AND {MAX_INSTANT})"


@compiles(valid_instant, "postgresql")
def _valid_instant_postgresql(element: valid_instant, compiler: Any, **kw: Any) -> str:
    value = compiler.process(element.clauses, **kw)
    return f"({value} IS NOT NULL AND {value} BETWEEN {MIN_INSTANT} AND {MAX_INSTANT})"


class database_now(FunctionElement[int]):  # noqa: N801
    """Now by the database's clock, in microseconds since 1970."""

    type = BigInteger()
    inherit_cache = True
    name = "database_now"


@compiles(database_now, "sqlite")
def _database_now_sqlite(element: database_now, compiler: Any, **kw: Any) -> str:
    return "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"


@compiles(database_now, "postgresql")
def _database_now_postgresql(element: database_now, compiler: Any, **kw: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"


class byte_length(FunctionElement[int]):  # noqa: N801
    """Size of a text or of bytes, in bytes."""

    type = BigInteger()
    inherit_cache = True
    name = "byte_length"


@compiles(byte_length, "sqlite")
def _byte_length_sqlite(element: byte_length, compiler: Any, **kw: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **kw)} AS BLOB))"


@compiles(byte_length, "postgresql")
def _byte_length_postgresql(element: byte_length, compiler: Any, **kw: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **kw)})"


class has_label(_Condition):  # noqa: N801
    """True if the JSON object (first argument) has this key (second) with this text (third)."""

    inherit_cache = True
    name = "has_label"


@compiles(has_label, "sqlite")
def _has_label_sqlite(element: has_label, compiler: Any, **kw: Any) -> str:
    labels, key, value = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"(EXISTS (SELECT 1 FROM json_each({labels}) AS label WHERE label.key = {key} AND label.value = {value}))"  # noqa: S608  compiled names


@compiles(has_label, "postgresql")
def _has_label_postgresql(element: has_label, compiler: Any, **kw: Any) -> str:
    labels, key, value = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"(CAST({labels} AS JSON) ->> CAST({key} AS TEXT) = CAST({value} AS TEXT))"


class is_one_of(_Condition):  # noqa: N801
    """True if the column (first) is in the list parameter (second): a JSON array on SQLite, else an array."""

    inherit_cache = True
    name = "is_one_of"


@compiles(is_one_of, "sqlite")
def _is_one_of_sqlite(element: is_one_of, compiler: Any, **kw: Any) -> str:
    column, values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({values})))"  # noqa: S608  compiled names


@compiles(is_one_of, "postgresql")
def _is_one_of_postgresql(element: is_one_of, compiler: Any, **kw: Any) -> str:
    column, values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({column} = ANY({values}))"


def compile_text(statement: ClauseElement, dialect: Dialect) -> str:
    """The text of ``statement``. Every parameter must have a name of its own and no value yet."""
    placed: dict[str, Any] = {}
    if dialect is POSTGRESQL:
        placed = {"schema_translate_map": {None: POSTGRESQL_SCHEMA}, "render_schema_translate": True}
    compiled = cast("SQLCompiler", statement.compile(dialect=dialect, **placed))
    if hidden := [name for name, bound in compiled.binds.items() if not bound.required]:
        raise ValueError(f"constants that became parameters {hidden} in {compiled}")
    return str(compiled)


class Texts(dict[ClauseElement, str]):
    """Statement -> its text in one dialect, compiled when first asked for."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self._dialect = dialect

    def __missing__(self, statement: ClauseElement) -> str:
        text = self[statement] = compile_text(statement, self._dialect)
        return text
