from __future__ import annotations

import gzip
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pytest

from async_delivery.analyses.profile import profile
from async_delivery.plugins import InvalidInputError
from async_delivery.testing import run_inline
from tests.analyses.support import column, profiled, refused

# Hardly to be compressed, and the same in every process that collects tests.
CUT_OFF = gzip.compress(b"".join(sha256(b"%d" % n).digest() for n in range(100)).hex().encode(), mtime=0)[
    :900
]
HEAD = "a,b\n" + "1,2\n" * 30_000


def names(report: dict[str, Any]) -> list[str]:
    return [each["name"] for each in report["columns"]]


@pytest.mark.parametrize(
    ("content", "name", "params"),
    [
        ("a,b\n1,2\n3,4\n", "x.csv", {}),
        ("a;b\n1;2\n3;4\n", "x.csv", {}),
        ("a\tb\n1\t2\n3\t4\n", "x.tsv", {}),
        ("a|b\r\n1|2\r\n3|4", "x", {}),
        ("a,b\r1,2\r3,4\r", "x.csv", {}),
        ("a::b\n1::2\n3::4\n", "x.csv", {"delimiter": "::"}),
        ("a'b\n1'2\n3'4\n", "x.csv", {"delimiter": "'"}),
        (b"\xef\xbb\xbfa;b\n1;2\n3;4\n", "x.csv", {}),
        ("a,b\n1,2\n3,4\n".encode("utf-16"), "x.csv", {"encoding": "utf-16"}),
        (gzip.compress(b"a,b\n1,2\n3,4\n", mtime=0), "x.csv.gz", {}),
        ('[{"a": 1, "b": 2}, {"a": 3, "b": 4}]', "x.json", {}),
        ('{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n', "x.ndjson", {}),
        ('\n [{"a": 1, "b": 2}, {"a": 3, "b": 4}]', "unnamed", {}),
        ("a,b\n1,2\n3,4\n", "x.json", {"format": "csv"}),
    ],
)
def test_the_same_table_is_read_from_every_way_to_write_it(
    content: str | bytes, name: str, params: dict[str, Any], tmp_path: Path
) -> None:
    report = profiled(tmp_path, content, name, **params)

    assert names(report) == ["a", "b"]
    assert [each["type"] for each in report["columns"]] == ["BIGINT", "BIGINT"]
    assert [column(report, "a")["min"], column(report, "b")["max"]] == [1, 4]
    assert report["dataset"]["rows"] == 2


def test_a_table_in_the_request_itself_is_read(tmp_path: Path) -> None:
    rows = run_inline(profile, {"data": [{"a": 1, "b": "x"}, {"a": 2}]}).result
    text = run_inline(profile, {"csv": "a,b\n1,x\n2,\n"}).result

    for report in (rows, text):
        assert (report["dataset"]["origin"], report["dataset"]["rows"]) == ("inline", 2)
        assert column(report, "b")["nulls"] == 1


def test_german_csv_is_read_with_its_encoding_and_decimal_comma(tmp_path: Path) -> None:
    content = "Straße;Höhe\nAllee;1,5\nGasse;2,5\n".encode("latin-1")

    report = profiled(tmp_path, content, encoding="latin-1", decimal_separator=",")

    assert names(report) == ["Straße", "Höhe"]
    assert column(report, "Höhe")["mean"] == 2.0


def test_the_usual_words_for_a_missing_value_are_no_text(tmp_path: Path) -> None:
    words = ["", "NA", "N/A", "n/a", "NULL", "null", "None", "NaN"]
    content = "n,x\n" + "\n".join(f"{i},{word}" for i, word in enumerate(words)) + "\n8,1.5\n"

    found = column(profiled(tmp_path, content), "x")

    assert (found["type"], found["nulls"], found["count"]) == ("DOUBLE", len(words), 1)


def test_own_words_for_a_missing_value_replace_the_usual_ones(tmp_path: Path) -> None:
    report = profiled(tmp_path, "a,b\nit's,1\nNA,-\n", null_values=["it's", "-"])

    assert column(report, "a")["top"] == [{"value": "NA", "count": 1, "percent": 100.0}]
    assert column(report, "b")["nulls"] == 1


def test_parquet_with_every_kind_of_column_becomes_plain_json(tmp_path: Path) -> None:
    file = tmp_path / "all.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            f"""COPY (SELECT * FROM (VALUES
            (1.5::DECIMAL(10,2), [1, 2], {{'x': 1}}, MAP{{'k': 1}}, '\\xAA'::BLOB, INTERVAL 3 DAYS,
             TIMESTAMP_NS '2020-01-01 00:00:00.123456789', TIMESTAMPTZ '2020-01-01 02:00:00+02',
             18446744073709551615::UBIGINT, 'nan'::DOUBLE, DATE 'infinity', true, TIME '10:00',
             12345678901234567890.123456789::DECIMAL(38,9)),
            (2.5, [3], {{'x': 2}}, MAP{{'k': 2}}, '\\xBB'::BLOB, INTERVAL 4 DAYS,
             TIMESTAMP_NS '2021-01-01 00:00:00', TIMESTAMPTZ '2021-01-01 00:00:00+00',
             1, 'inf'::DOUBLE, DATE '0044-03-15 (BC)', false, NULL, 1),
            (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2.5, NULL, NULL, NULL, NULL)
            ) t(dec, list, struct, map, blob, span, ns, tz, big, odd, day, flag, clock, long))
            TO '{file}'"""
        )

    report = run_inline(profile, {"path": "all.parquet"}, data_root=tmp_path).result

    assert report["dataset"]["format"] == "parquet"
    assert column(report, "dec")["mean"] == pytest.approx(7 / 3)
    assert column(report, "list")["kind"] == column(report, "struct")["kind"] == "other"
    assert column(report, "ns")["min"] == "2020-01-01T00:00:00.123456789"
    assert column(report, "tz")["min"] == "2020-01-01T00:00:00Z"
    assert column(report, "big")["max"] == 2**64 - 1
    assert (column(report, "odd")["not_finite"], column(report, "odd")["mean"]) == (2, 2.5)
    assert column(report, "day")["min"] == "0044-03-15 (BC)"
    assert column(report, "long")["max"] == "12345678901234567890.123456789"


def test_a_column_that_changes_its_type_late_is_text_and_not_an_error(tmp_path: Path) -> None:
    report = profiled(tmp_path, HEAD + "x,2\n")

    assert (column(report, "a")["type"], column(report, "b")["type"]) == ("VARCHAR", "BIGINT")
    assert any("reading the whole file" in note for note in report["notes"])


def test_lines_that_end_in_different_ways_are_read_with_a_note(tmp_path: Path) -> None:
    report = profiled(tmp_path, "a,b\n1,2\r\n3,4\n")

    assert report["dataset"]["rows"] == 2
    assert any("end in different ways" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("", "x.csv", "is empty"),
        (" \r\n\n", "x.csv", "is empty"),
        ("a,b\n1,2\n3\n", "x.csv", "line 3: expected 2 columns, found 1"),
        ("a,b\n1,2\n3,4,5\n", "x.csv", "line 3: expected 2 columns, found 3"),
        (HEAD + "3\n", "x.csv", "line 30002: expected 2 columns, found 1"),
        (HEAD + "3,4,5\n", "x.csv", "line 30002: expected 2 columns, found 3"),
        (HEAD + "x,4,5\n", "x.csv", "line 30002: expected 2 columns, found 3"),
        ('a,b\n1,"2\n3,4\n', "x.csv", "line 2: a quoted value does not end"),
        (b"a,b\n\xe4\xf6,1\n", "x.csv", "line 2: the text is not UTF-8"),
        ("a,b\n1," + "y" * 3_000_000 + "\n", "x.csv", "longer than 2 MB"),
        (b"PK\x03\x04" + bytes(300), "x.xlsx", "ZIP or Excel"),
        (b"\x89PNG\r\n" + bytes(300), "x.csv", "is an image"),
        (CUT_OFF, "x.csv.gz", "damaged or cut off"),
        ('[{"a": 1}, {"a":', "x.json", "malformed JSON at byte"),
        ("nope", "x.json", "malformed JSON"),
        ("[]", "x.json", "holds no records"),
        ('{"a": 1, "a": 2}', "x.json", "'a' stands twice"),
        (b"PAR1 cut", "x.parquet", "not a Parquet file"),
        (b"", "x.parquet", "is empty"),
    ],
)
def test_broken_files_are_refused_with_the_place_and_without_a_path_of_the_machine(
    content: str | bytes, name: str, says: str, tmp_path: Path
) -> None:
    error = refused(tmp_path, content, name)

    assert error.field == "file"
    assert says in error.issue
    assert "/" not in error.issue
    assert "\n" not in error.issue


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "params"),
        ({"csv": "a\n1", "data": [{"a": 1}]}, "params.csv"),
        ({"data": []}, "params.data"),
        ({"csv": " "}, "params.csv"),
        ({"csv": "a\n\ud800"}, "params.csv"),
        ({"data": [{"a": "\ud800"}]}, "params.data"),
        ({"path": "x.csv"}, "params.path"),
    ],
)
def test_a_job_without_exactly_one_readable_data_set_names_the_field(
    params: dict[str, Any], field: str, tmp_path: Path
) -> None:
    from async_delivery.testing import RecordingContext

    with pytest.raises(InvalidInputError) as caught:
        profile.run(params, RecordingContext(tmp_path))

    assert caught.value.field == field


def test_hostile_names_and_values_are_only_ever_data(tmp_path: Path) -> None:
    heads = ['"""; DROP TABLE t; --"', "a", "A", "", "c0", "<script>", "x" * 500, "ü\U0001f427"]
    values = ['"\'; DROP TABLE t; --"', "2", "3", "4", "5", "</script>", "\\'", "null\u0000"]
    content = ",".join(heads) + "\n" + (",".join(values) + "\n") * 3

    report = profiled(tmp_path, content)

    assert report["dataset"]["rows"] == 3
    assert names(report)[0] == '"; DROP TABLE t; --'
    assert len(set(names(report))) == len(heads), "names that differ in case or are missing are told apart"
    assert column(report, '"; DROP TABLE t; --')["top"][0]["value"] == "'; DROP TABLE t; --"
    assert column(report, "c0")["mean"] == 5.0
    assert column(report, "x" * 500)["max"] == "\\'"
    assert all(len(chart["title"]) < 120 for chart in report["charts"])
