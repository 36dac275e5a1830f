"""What a file is, from its name and first bytes: format, compression, and how a CSV is laid out.

DuckDB's own detection accepts too much: it takes a broken row as a reason to skip lines or to call everything
one column. So delimiter and quotes are settled here, and what breaks them is an error. Standard library only.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import PurePosixPath

from async_delivery.analyses.profile.params import Encoding, Format

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_RECORDS = 100
_BY_SUFFIX = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".tab": Format.CSV,
    ".txt": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".json": Format.JSON,
    ".jsonl": Format.JSON,
    ".ndjson": Format.JSON,
}
_FOREIGN = {
    b"PK\x03\x04": "a ZIP or Excel file",
    b"%PDF": "a PDF file",
    b"SQLite format 3": "an SQLite database",
    b"\x89PNG": "an image",
    b"\x89HDF": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"ARROW1": "an Arrow file",
}


def foreign(head: bytes) -> str | None:
    """What a file certainly is that is no data set, or None."""
    return next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None)


def compression(head: bytes) -> str:
    """``gzip``, ``zstd`` or ``none``."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return "zstd" if head.startswith(b"\x28\xb5\x2f\xfd") else "none"


def plain_head(head: bytes) -> bytes:
    """The first bytes after decompression; empty where the standard library cannot."""
    kind = compression(head)
    if kind == "none":
        return head
    if kind == "zstd":
        return b""
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(head)).read(16384)
    except EOFError:  # the head ends in the middle of a block
        return zlib.decompressobj(wbits=31).decompress(head, 16384)
    except (OSError, zlib.error):
        return b""


def file_format(name: str, head: bytes) -> Format:
    """The format by content where it is certain, else by the name's ending, else CSV."""
    if head.startswith(b"PAR1"):
        return Format.PARQUET
    suffixes = PurePosixPath(name.lower()).suffixes
    for suffix in reversed(suffixes):
        if suffix in _BY_SUFFIX:
            return _BY_SUFFIX[suffix]
    text = plain_head(head).removeprefix(b"\xef\xbb\xbf").lstrip()
    return Format.JSON if text[:1] in (b"{", b"[") else Format.CSV


def sample_text(head: bytes, encoding: Encoding) -> str:
    """The first lines as text; a line that the sample cuts off is left out."""
    text = plain_head(head).decode(
        "utf-8-sig" if encoding is Encoding.UTF_8 else str(encoding), errors="replace"
    )
    if len(head) < 65536 and compression(head) == "none":
        return text
    return text[: text.rfind("\n") + 1] or text


def delimiter(sample: str) -> str:
    """The delimiter that splits most lines into as many values as the first, and into most values."""
    scores = {each: _score(sample, each) for each in DELIMITERS}
    best = max(scores, key=lambda each: scores[each])
    return best if scores[best][1] > 1 else ","


def first_record(sample: str, delimiter: str) -> list[str]:
    """The values of the first line."""
    records = _records(sample, delimiter)
    return records[0] if records else []


def _score(sample: str, delimiter: str) -> tuple[float, int]:
    records = _records(sample, delimiter)
    if not records or len(records[0]) < 2:
        return 0.0, 0
    width = len(records[0])
    return sum(len(record) == width for record in records) / len(records), width


def _records(sample: str, delimiter: str) -> list[list[str]]:
    if len(delimiter) > 1:
        return [line.split(delimiter) for line in sample.splitlines()[:_SAMPLE_RECORDS]]
    records: list[list[str]] = []
    try:
        for record in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter):
            if record:
                records.append(record)
            if len(records) == _SAMPLE_RECORDS:
                break
    except csv.Error:  # a NUL or a value without end: the lines before it must do
        pass
    return records
