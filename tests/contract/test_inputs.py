from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from async_delivery.domain.errors import ConflictError, NotFoundError
from async_delivery.domain.job import Job
from async_delivery.storage.contract import InputFile, Transaction
from tests.contract.support import ALPHA, BETA, House
from tests.domain.support import REQUEST

CHUNKS = (b"first\x00\xff" * 100_000, b"second", b"")


def adding(house: House, input_id: str, seq: int, chunk: bytes) -> Callable[[Transaction], None]:
    return lambda tx: tx.add_input_chunk(ALPHA, input_id, seq, chunk, house.now)


def uploaded(house: House, chunks: tuple[bytes, ...] = CHUNKS, *, entered: bool = True) -> InputFile:
    data = b"".join(chunks)
    input_id = house.new_id()
    file = InputFile(
        input_id, ALPHA, "päng uins.csv", "text/csv", len(data), hashlib.sha256(data).hexdigest(), house.now
    )
    for seq, chunk in enumerate(chunks):
        house.store.write(adding(house, input_id, seq, chunk))
    if entered:
        house.store.write(lambda tx: tx.add_input(file))
    return file


def read(house: House, file: InputFile) -> bytes:
    return house.store.read(lambda reader: b"".join(reader.read_input(file.org_id, file.input_id)))


def named(house: House, file: InputFile, retry_of: Job | None = None) -> Job:
    return house.submit(
        request=replace(REQUEST, input_id=file.input_id), retry_of=retry_of and retry_of.job_id
    )


def test_an_uploaded_file_comes_back_whole(house: House) -> None:
    file = uploaded(house)

    assert house.store.read(lambda reader: reader.find_input(ALPHA, file.input_id)) == file
    assert read(house, file) == b"".join(CHUNKS)
    assert house.violations() == []


def test_an_empty_file_is_a_file(house: House) -> None:
    file = uploaded(house, (b"",))

    assert read(house, file) == b""


def test_a_file_that_was_not_entered_is_not_there(house: House) -> None:
    file = uploaded(house, entered=False)

    assert house.store.read(lambda reader: reader.find_input(ALPHA, file.input_id)) is None
    with pytest.raises(NotFoundError):
        read(house, file)


def test_another_tenants_file_is_not_there(house: House) -> None:
    file = replace(uploaded(house), org_id=BETA)

    assert house.store.read(lambda reader: reader.find_input(BETA, file.input_id)) is None
    with pytest.raises(NotFoundError):
        read(house, file)


def test_chunks_and_files_are_entered_once(house: House) -> None:
    file = uploaded(house)

    with pytest.raises(ConflictError):
        house.store.write(lambda tx: tx.add_input_chunk(ALPHA, file.input_id, 0, b"other", house.now))
    with pytest.raises(ConflictError):
        house.store.write(lambda tx: tx.add_input(file))
    assert read(house, file) == b"".join(CHUNKS)


def test_a_file_is_forgotten_unless_a_job_names_it(house: House) -> None:
    free, kept = uploaded(house), uploaded(house)
    named(house, kept)

    house.store.write(lambda tx: tx.drop_input(ALPHA, free.input_id))
    house.store.write(lambda tx: tx.drop_input(ALPHA, kept.input_id))

    assert house.store.read(lambda reader: reader.find_input(ALPHA, free.input_id)) is None
    assert read(house, kept) == b"".join(CHUNKS)


def test_another_tenant_cannot_forget_a_file(house: House) -> None:
    file = uploaded(house)

    house.store.write(lambda tx: tx.drop_input(BETA, file.input_id))

    assert read(house, file) == b"".join(CHUNKS)


def test_a_file_goes_with_the_last_job_that_names_it(house: House) -> None:
    file = uploaded(house)
    first = house.cancel(named(house, file))
    second = house.cancel(named(house, file, retry_of=first))

    house.store.write(lambda tx: tx.erase_job(ALPHA, first.job_id))
    assert read(house, file) == b"".join(CHUNKS)
    house.store.write(lambda tx: tx.erase_job(ALPHA, second.job_id))

    assert house.store.read(lambda reader: reader.find_input(ALPHA, file.input_id)) is None
    assert house.violations() == []


def test_a_job_cannot_name_a_file_that_is_not_there_or_not_its_tenants(house: House) -> None:
    gone, theirs, unfinished = uploaded(house), uploaded(house), uploaded(house, entered=False)
    house.store.write(lambda tx: tx.drop_input(ALPHA, gone.input_id))

    for org_id, file in ((ALPHA, gone), (ALPHA, unfinished), (BETA, theirs)):
        with pytest.raises(NotFoundError, match="input not found"):
            house.submit(org_id, replace(REQUEST, input_id=file.input_id))

    assert house.store.info().counts["jobs"] == 0
    assert named(house, theirs).org_id == ALPHA
    assert house.violations() == []


def test_files_that_no_job_names_are_pruned_after_a_day(house: House) -> None:
    unnamed, unfinished, kept = uploaded(house), uploaded(house, entered=False), uploaded(house)
    named(house, kept)
    house.later(hours=23, minutes=59)
    young = uploaded(house)

    early = house.store.write(lambda tx: tx.prune(house.now, 100))
    house.later(minutes=1)
    counts = house.store.write(lambda tx: tx.prune(house.now, 100))
    again = house.store.write(lambda tx: tx.prune(house.now, 100))

    assert set(early.values()) == {0}
    assert (counts["inputs"], counts["uploads"]) == (1, 1)
    assert set(again.values()) == {0}
    assert house.store.read(lambda reader: reader.find_input(ALPHA, unnamed.input_id)) is None
    assert read(house, kept) == b"".join(CHUNKS)
    assert read(house, young) == b"".join(CHUNKS)
    # What was left of the upload that never ended is gone too: its chunks could be written anew.
    house.store.write(lambda tx: tx.add_input_chunk(ALPHA, unfinished.input_id, 0, b"x", house.now))
