"""A file comes with its request in one form, is streamed into the store, and is gone if the request is refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from async_delivery.api.multipart import bare_name
from async_delivery.domain.errors import UnavailableError
from async_delivery.engine import inputs
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import InputFile
from tests.api.support import ASYNC, Web, stored_files, stored_jobs
from tests.engine.support import ALPHA, claimed

BOUNDARY = "the-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, data: bytes, extra: str = "", headers: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n{headers}\r\n'
    return head.encode() + data + b"\r\n"


def request_part(**members: Any) -> bytes:
    return part("request", orjson.dumps({**ASYNC, **members}))


def file_part(data: bytes, filename: str = "table.csv") -> bytes:
    return part("file", data, f'; filename="{filename}"', "Content-Type: text/csv\r\n")


END = f"--{BOUNDARY}--\r\n".encode()


def kept(rt: Runtime) -> tuple[InputFile, bytes]:
    """The file of the one queued job, as its attempt would get it."""
    file = claimed(rt).input
    assert file is not None
    data = rt.store.read(lambda reader: b"".join(reader.read_input(ALPHA, file.input_id)))
    return file, data


@pytest.mark.parametrize("file_first", [True, False])
def test_a_file_reaches_the_job_as_it_was_sent(
    rt: Runtime, web: Web, file_first: bool, tmp_path: Path
) -> None:
    data = os.urandom(3_000_000) + b"\r\n--the-boundar\r\n--" + b"\x00\r\n"
    parts = [request_part(params={"upto": 3}), file_part(data)]
    content = b"".join(reversed(parts) if file_first else parts) + END

    answer = web.post("/analyze", content=content, headers=FORM)

    assert answer.status_code == 202, answer.text
    file, stored = kept(rt)
    assert stored == data
    assert (file.filename, file.media_type, file.size_bytes) == ("table.csv", "text/csv", len(data))
    assert file.sha256 == sha256(data).hexdigest()
    inputs.fetch_input(rt, file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("size", [1, 7, 4_096])
def test_it_does_not_matter_how_the_form_is_cut_on_its_way(rt: Runtime, web: Web, size: int) -> None:
    data = bytes(range(256)) * 4 + b"\r\n--the-boundary-not"
    content = request_part() + file_part(data) + END

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), size):
            yield content[start : start + size]

    answer = web.post("/analyze", content=pieces(), headers=FORM)

    assert answer.status_code == 202, answer.text
    assert kept(rt)[1] == data


def test_an_empty_file_is_a_file(rt: Runtime, web: Web) -> None:
    assert (
        web.post("/analyze", content=request_part() + file_part(b"") + END, headers=FORM).status_code == 202
    )
    assert kept(rt)[1] == b""


def test_the_form_that_clients_make_is_understood(rt: Runtime, web: Web) -> None:
    files = {"request": (None, orjson.dumps(ASYNC)), "file": ("größe.csv", b"a,b\n1,2\n", "text/csv")}

    answer = web.post("/analyze", files=files)

    assert answer.status_code == 202, answer.text
    file, data = kept(rt)
    assert (file.filename, data) == ("größe.csv", b"a,b\n1,2\n")


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (request_part() + END, ["file"]),
        (file_part(b"x") + END, ["request"]),
        (END, ["request", "file"]),
        (request_part() + request_part() + file_part(b"x") + END, ["request"]),
        (request_part() + file_part(b"x") + file_part(b"y") + END, ["file"]),
        (request_part() + file_part(b"x") + part("extra", b"y") + END, ["extra"]),
        (part("", b"y") + END, ["body"]),
        (request_part() + file_part(b"x"), ["body"]),
        (request_part() + file_part(b"x")[:-20], ["body"]),
        (b"not a form at all", ["body"]),
        (b"", ["body"]),
        (f"--{BOUNDARY}\r\nno header\r\n\r\nx\r\n".encode() + END, ["body"]),
        (f"--{BOUNDARY}\r\n\r\nx\r\n".encode() + END, ["body"]),
        (f"--{BOUNDARY}\r\n".encode() + b"X: y\r\n" * 1_000 + b"\r\nx\r\n" + END, ["body"]),
        (part("request", b"{") + file_part(b"x") + END, ["body"]),
        (part("request", b'{"query":1,"query":2}') + file_part(b"x") + END, ["query"]),
        (request_part(analysis="fileless") + file_part(b"x") + END, ["file"]),
        (request_part(params={"upto": -1}) + file_part(b"x") + END, ["params.upto"]),
        (file_part(b"x" * 2_000_000) + part("request", b"{") + END, ["body"]),
    ],
)
def test_a_form_that_is_wrong_is_refused_and_its_file_forgotten(
    rt: Runtime, web: Web, content: bytes, fields: list[str]
) -> None:
    answer = web.post("/analyze", content=content, headers=FORM)

    assert answer.status_code == 400, answer.text
    assert [one["field"] for one in answer.json()["details"]] == fields
    assert stored_jobs(rt) == []
    assert stored_files(rt) == 0


@pytest.mark.parametrize(
    "content",
    [
        request_part() + file_part(b"x" * 5_000_001) + END,
        part("request", b"x" * 100_001) + file_part(b"x") + END,
        request_part() + file_part(b"x" * 6_000_000) + END,
    ],
)
def test_what_is_too_large_is_refused_and_forgotten(rt: Runtime, web: Web, content: bytes) -> None:
    answer = web.post("/analyze", content=content, headers=FORM)

    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert stored_jobs(rt) == []
    assert stored_files(rt) == 0


def test_a_file_of_just_the_right_size_is_taken(rt: Runtime, web: Web) -> None:
    content = request_part() + file_part(b"x" * 5_000_000) + END

    assert web.post("/analyze", content=content, headers=FORM).status_code == 202


def test_a_replayed_upload_is_the_first_ones_job_with_the_first_ones_file(rt: Runtime, web: Web) -> None:
    headers = {**FORM, "Idempotency-Key": "k"}
    content = request_part() + file_part(b"data") + END

    first, again = (web.post("/analyze", content=content, headers=headers) for _ in range(2))
    other = web.post("/analyze", content=request_part() + file_part(b"Data") + END, headers=headers)

    assert first.json()["job"]["job_id"] == again.json()["job"]["job_id"]
    assert other.status_code == 422
    assert stored_files(rt) == 1
    assert kept(rt)[1] == b"data"


def test_a_store_that_fails_in_the_middle_refuses_the_request(
    rt: Runtime, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = rt.store.write, 0

    def failing(fn: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise UnavailableError("disk full")
        return write(fn)

    monkeypatch.setattr(rt.store, "write", failing)

    answer = web.post("/analyze", content=request_part() + file_part(b"x" * 4_000_000) + END, headers=FORM)

    assert (answer.status_code, answer.json()["message"]) == (503, "disk full")
    assert stored_jobs(rt) == []
    assert stored_files(rt) == 0


def test_many_uploads_at_once_keep_apart(rt: Runtime, web: Web) -> None:
    async def talk(ask: Any) -> Any:
        return await asyncio.gather(
            *(
                ask(
                    "POST",
                    "/analyze",
                    content=request_part() + file_part(bytes([n]) * 1_500_000) + END,
                    headers=FORM,
                )
                for n in range(12)
            )
        )

    assert {answer.status_code for answer in web.run(talk)} == {202}
    assert {bytes(set(kept(rt)[1])) for _ in range(12)} == {bytes([n]) for n in range(12)}


@pytest.mark.parametrize(
    ("sent", "kept_as"),
    [
        ("table.csv", "table.csv"),
        ("größe 1.csv", "größe 1.csv"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("C:\\data\\table.csv", "table.csv"),
        ("a/b\\c.csv", "c.csv"),
        ("a\r\nb\x00\x1b.csv", "ab.csv"),
        ("\u202ecsv.exe", "csv.exe"),
        ("..", "file"),
        (".", "file"),
        ("dir/", "file"),
        ("", "file"),
        (" . ", "file"),
        (".hidden", ".hidden"),
    ],
)
def test_a_file_keeps_nothing_of_its_name_that_could_lead_elsewhere(sent: str, kept_as: str) -> None:
    assert bare_name(sent) == kept_as


@pytest.mark.parametrize("name", ["x" * 400 + ".csv", "é" * 400, "." + "x" * 400, "a." + "b" * 400])
def test_a_long_name_is_cut_to_what_a_file_system_takes(name: str) -> None:
    cut = bare_name(name)

    assert 200 < len(cut.encode()) <= 255
    assert cut.endswith(name[-4:]) or "." not in name[-20:]
