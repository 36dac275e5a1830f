"""From an open data set to one table ``t`` with the columns c0, c1, ...: its own names never enter SQL.

One scan of the file in the good case. Imports ``plugins``.
"""

# ruff: noqa: S608 - SQL is built of c0, c1, ..., numbers and quoted literals; names from the data never enter it.

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_delivery.analyses.profile import dialect
from async_delivery.analyses.profile.faults import MIXED_LINE_ENDS, explain
from async_delivery.analyses.profile.params import Format, ProfileParams
from async_delivery.analyses.profile.sandbox import Sandbox
from async_delivery.analyses.profile.source import Source
from async_delivery.analyses.profile.values import iso, literal, plain
from async_delivery.plugins import Context, InvalidInputError

if TYPE_CHECKING:
    import duckdb

MIB = 2**20
PREVIEW_ROWS = 5
PREVIEW_COLUMNS = 20
_NUMBERS = frozenset({
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT",
    "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT", "DOUBLE",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """One column of ``t``.

    ref     its name in SQL: c0, c1, ...
    name    as in the data set
    type    DuckDB's
    kind    ``number``, ``boolean``, ``time``, ``text`` or ``other`` (nested and binary values)
    """

    ref: str
    name: str
    type: str
    kind: str

    @property
    def is_float(self) -> bool:
        """True if it may hold NaN and infinities."""
        return self.type in ("FLOAT", "DOUBLE")


@dataclass(slots=True)
class Table:
    """The loaded data set. ``sandbox`` holds ``t``."""

    sandbox: Sandbox
    columns: list[Column]
    rows: int
    format: Format
    columns_in_file: int
    preview: list[list[Any]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read the file: the table function with its options, and what to tell of it."""

    sql: str
    note: str | None = None


def load(context: Context, source: Source, params: ProfileParams, report: Callable[[float], None]) -> Table:
    """Read the data set into a new table.

    Raises InvalidInputError that says where the data set is broken.
    """
    import duckdb

    if what := dialect.foreign(source.head):
        raise InvalidInputError(source.field, f"is {what}; give CSV, Parquet or JSON")
    kind = (
        params.format if params.format is not Format.AUTO else dialect.file_format(source.name, source.head)
    )
    problem: duckdb.Error
    *quick, last = _readings(kind, source, params)
    for reading in quick:
        try:
            return _load(context, source, params, kind, reading, report)
        except duckdb.Error:  # the last reading fails as well then, and says why
            continue
    try:
        return _load(context, source, params, kind, last, report)
    except duckdb.Error as exc:
        problem = exc
    if kind is Format.CSV and (structural := _structural_problem(context, source, params)):
        problem = structural
    if MIXED_LINE_ENDS in str(problem):
        try:
            lenient = _Reading(f"{last.sql[:-1]}, strict_mode=false)", _LENIENT)
            return _load(context, source, params, kind, lenient, report)
        except duckdb.Error as exc:
            problem = exc
    raise InvalidInputError(source.field, explain(problem)) from problem


def _readings(kind: Format, source: Source, params: ProfileParams) -> Iterator[_Reading]:
    """The ways to read the file, best first; the later ones cost another scan."""
    path = literal(source.sql_path)
    if kind is Format.PARQUET:
        yield _Reading(f"read_parquet({path})")
        return
    packed = f"compression={literal(dialect.compression(source.head))}"
    if kind is Format.JSON:
        options = f"{packed}, map_inference_threshold=-1"
        yield _Reading(f"read_json({path}, {options})")
        yield _Reading(f"read_json({path}, {options}, sample_size=-1)", _TYPES_LATE)
        return
    options = f"{packed}, {_csv_options(source, params)}"
    yield _Reading(f"read_csv({path}, {options})")
    yield _Reading(f"read_csv({path}, {options}, sample_size=-1)", _TYPES_LATE)


_TYPES_LATE = "column types were found by reading the whole file, as its beginning does not show them"
_LENIENT = "the lines of the CSV end in different ways; values beyond a row's last column are ignored"


def _csv_options(source: Source, params: ProfileParams) -> str:
    sample = dialect.sample_text(source.head, params.encoding)
    between = params.delimiter or (dialect.delimiter(sample) if sample else None)
    options = ["quote='\"'", "escape='\"'", "comment=''", "skip=0", f"encoding={literal(params.encoding)}"]
    if between is not None:
        options.append(f"delim={literal(between)}")
    if params.header is not None:
        options.append(f"header={params.header}")
    if params.null_values:
        options.append(f"nullstr=[{', '.join(map(literal, params.null_values))}]")
    options.append(f"decimal_separator={literal(params.decimal_separator)}")
    return ", ".join(options)


def _load(
    context: Context,
    source: Source,
    params: ProfileParams,
    kind: Format,
    reading: _Reading,
    report: Callable[[float], None],
) -> Table:
    limit = params.memory_limit_mb * MIB
    with Sandbox(context, source.sql_path, memory_limit_bytes=limit, ordered=True) as ordered:
        names, preview = _look(ordered, reading)
    if kind is Format.JSON and names == ["json"] and not preview:
        raise InvalidInputError(source.field, "holds no records")
    kept = names[: params.max_columns]
    refs = [f"c{index}" for index in range(len(names))]
    database = context.workdir / "profile.duckdb"
    sandbox = Sandbox(context, source.sql_path, memory_limit_bytes=limit, database=database)
    try:
        selected = ", ".join(refs[: len(kept)])
        sandbox.query(
            f"CREATE TABLE t AS SELECT {selected} FROM {reading.sql} AS d({', '.join(refs)})", report
        )
        types = [str(row[1]).strip('"') for row in sandbox.query("DESCRIBE t")]
        rows = int(sandbox.query("SELECT count(*) FROM t")[0][0])
    except BaseException:
        sandbox.close()
        _remove(database)
        raise
    columns = [
        Column(ref, name, type_, _kind(type_)) for ref, name, type_ in zip(refs, kept, types, strict=False)
    ]
    notes = [reading.note] if reading.note else []
    if len(names) > len(kept):
        notes.append(f"only the first {len(kept)} of {len(names)} columns were read; see params.max_columns")
    return Table(sandbox, columns, rows, kind, len(names), preview, notes)


def _look(ordered: Sandbox, reading: _Reading) -> tuple[list[str], list[list[Any]]]:
    """The names of the columns and the first rows as JSON values."""
    ordered.query(f"CREATE TABLE p AS SELECT * FROM {reading.sql} LIMIT {PREVIEW_ROWS}")
    described = [(str(row[0]), str(row[1])) for row in ordered.query("DESCRIBE p")]
    refs = [f"c{index}" for index in range(len(described))]
    shown = [(ref, _kind(type_)) for ref, (_, type_) in zip(refs, described, strict=True)][:PREVIEW_COLUMNS]
    values = ", ".join(ref if kind in ("number", "boolean") else f"{ref}::VARCHAR" for ref, kind in shown)
    rows = ordered.query(f"SELECT {values} FROM p AS d({', '.join(refs)})")
    preview = [
        [iso(value) if kind == "time" else plain(value) for value, (_, kind) in zip(row, shown, strict=True)]
        for row in rows
    ]
    return [name for name, _ in described], preview


def _kind(type_: str) -> str:
    if type_ in _NUMBERS or type_.startswith("DECIMAL("):
        return "number" if not type_.endswith("[]") else "other"
    if type_ == "BOOLEAN":
        return "boolean"
    if type_ in ("DATE", "TIME") or (type_.startswith("TIMESTAMP") and not type_.endswith("[]")):
        return "time"
    if type_ in ("VARCHAR", "UUID") or (type_.startswith("ENUM(") and not type_.endswith("[]")):
        return "text"
    return "other"


def _structural_problem(context: Context, source: Source, params: ProfileParams) -> duckdb.Error | None:
    """What is wrong with the CSV when every value is text, or None: that names the line, detection does not."""
    import duckdb

    sample = dialect.sample_text(source.head, params.encoding)
    between = params.delimiter or dialect.delimiter(sample)
    width = max(1, len(dialect.first_record(sample, between)))
    columns = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(width))
    sql = (
        f"read_csv({literal(source.sql_path)}, compression={literal(dialect.compression(source.head))}, "
        f"{_csv_options(source, params)}, auto_detect=false, columns={{{columns}}})"
    )
    try:
        with Sandbox(context, source.sql_path, memory_limit_bytes=params.memory_limit_mb * MIB) as sandbox:
            sandbox.query(f"SELECT count(COLUMNS(*)) FROM {sql}")
    except duckdb.Error as exc:
        return exc
    return None


def _remove(database: Path) -> None:
    for file in (database, database.with_name(database.name + ".wal")):
        file.unlink(missing_ok=True)
