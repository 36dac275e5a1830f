"""A document as the source of an import; see ``engine.transfer.Source``."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Iterable, Iterator

from async_delivery.domain.account import Entry, Kind, Tallies
from async_delivery.domain.errors import StoreFileError
from async_delivery.domain.found import UNKNOWN
from async_delivery.storage.contract import InputFile
from async_delivery.storage.document import Document
from async_delivery.storage.document_fields import ID_FORM, Fields, RefusedRecord, is_id
from async_delivery.storage.document_jobs import Defaults, tenant_of
from async_delivery.storage.document_records import Adopted, read_job, read_strays, refuse_job, refused


class DocumentSource:
    """What an open document holds, job by job."""

    def __init__(self, document: Document, defaults: Defaults) -> None:
        self._document, self._defaults = document, defaults

    def arrivals(self) -> Iterator[Adopted]:
        """Every job, in the order of ids."""
        for job_id in self._document.job_ids():
            yield read_job(self._document, job_id, self._defaults)

    def strays(self) -> tuple[Iterable[Entry], Tallies]:
        """What belongs to no job."""
        return read_strays(self._document)

    def refuse(self, job_id: str, why: str) -> tuple[Iterable[Entry], Tallies]:
        """The job and all that belongs to it as refused."""
        return refuse_job(self._document, job_id, why)

    def inputs(self) -> Collection[str]:
        """The ids of all uploaded files."""
        return self._document.inputs().keys()

    def input_file(self, input_id: str) -> InputFile | str:
        """What is known of an uploaded file, or why it cannot be taken over."""
        record = self._document.value(self._document.inputs()[input_id])
        if not isinstance(record, dict):
            return "not an object"
        fields = Fields(record)
        try:
            org_id = tenant_of(fields)
            digest, size = hashlib.sha256(), 0
            for chunk in self.input_chunks(input_id):
                digest.update(chunk)
                size += len(chunk)
        except (RefusedRecord, StoreFileError) as exc:
            return str(exc)
        if not is_id(input_id):
            return f"its id is not {ID_FORM}"
        if (fields.get("size_bytes"), fields.get("sha256")) != (size, digest.hexdigest()):
            return "its bytes are not the ones that were uploaded"
        return InputFile(
            input_id=input_id,
            org_id=org_id,
            filename=fields.text("filename") or "upload",
            media_type=fields.text("media_type"),
            size_bytes=size,
            sha256=digest.hexdigest(),
            created_at=fields.instant("created_at") or UNKNOWN,
        )

    def input_chunks(self, input_id: str) -> Iterator[bytes]:
        """Its bytes, in order. Raises StoreFileError where they are not base64."""
        for place in self._document.chunks_of(input_id):
            try:
                yield base64.b64decode(self._document.value(place), validate=True)
            except (binascii.Error, TypeError, ValueError) as exc:
                raise StoreFileError(f"a part of the file {input_id} is not base64") from exc

    def refused_input(self, input_id: str, why: str) -> Entry:
        """The entry of an uploaded file that is not taken over."""
        place = self._document.inputs()[input_id]
        problem = self.input_file(input_id)
        if isinstance(problem, str):
            why = problem
        return refused(self._document, Kind.INPUTS, input_id, place, why)
