"""Uploaded files: kept in the store in chunks, so that any worker on any machine has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from async_delivery.domain.errors import PayloadTooLargeError, ValidationError
from async_delivery.domain.tenant import OrgId
from async_delivery.domain.text import REFUSAL, is_storable
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import InputFile, Reader

CHUNK_BYTES = 1 << 20


def keep_input(
    rt: Runtime, org_id: OrgId, filename: str, media_type: str | None, chunks: Iterable[bytes], max_bytes: int
) -> InputFile:
    """Store a file in chunks of at most CHUNK_BYTES, each durable; it is entered when it is whole.

    Raises PayloadTooLargeError, ValidationError for its name or type. What was stored of a file that is not entered
    is pruned later.
    """
    if not is_storable(filename) or not is_storable(media_type or ""):
        raise ValidationError.of("file", f"its name and type {REFUSAL}")
    input_id, digest, size, now = rt.new_id(), hashlib.sha256(), 0, rt.clock.now()
    for seq, data in enumerate(chunks):
        size += len(data)
        if size > max_bytes:
            raise PayloadTooLargeError(f"file: larger than the {max_bytes} bytes this server takes")
        digest.update(data)
        rt.store.write(
            lambda tx, seq=seq, data=data: tx.add_input_chunk(org_id, input_id, seq, data, now)  # type: ignore[misc]
        )
    file = InputFile(input_id, org_id, filename, media_type, size, digest.hexdigest(), now)
    rt.store.write(lambda tx: tx.add_input(file))
    return file


def drop_input(rt: Runtime, file: InputFile) -> None:
    """Forget a file whose request was refused."""
    rt.store.write(lambda tx: tx.drop_input(file.org_id, file.input_id))


def fetch_input(rt: Runtime, file: InputFile, target: Path) -> None:
    """Write the stored file to ``target``, which must not exist. Raises NotFoundError if it is gone."""

    def copy(reader: Reader) -> None:
        with target.open("xb") as out:
            for data in reader.read_input(file.org_id, file.input_id):
                out.write(data)

    rt.store.read(copy)
