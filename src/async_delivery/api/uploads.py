"""From a form that arrives to a file kept in the store, without ever holding more than a few chunks of it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from contextlib import suppress

from async_delivery.api.context import Api
from async_delivery.api.multipart import FileHead, FileSink, boundary_of, read_form
from async_delivery.api.request import Body, Call, Receive
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.engine.inputs import CHUNK_BYTES, drop_input, keep_input
from async_delivery.storage.contract import InputFile

# Chunks that may wait between the network and the store.
_AHEAD = 2
# Boundaries, part headers and the like.
_FORM_OVERHEAD_BYTES = 65_536


class _Aborted(Exception):  # noqa: N818  a signal to the other thread, no error of anybody's
    """The rest of the file will not come."""


class StoreSink(FileSink):
    """Hands the file over to a thread that keeps it, in chunks of CHUNK_BYTES."""

    def __init__(self, api: Api, call: Call) -> None:
        self._api, self._call = api, call
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(_AHEAD)
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._pending = bytearray()
        self._work: asyncio.Future[InputFile] | None = None
        self._whole = False
        self.file: InputFile | None = None

    async def begin(self, head: FileHead) -> None:
        """Start the thread's work."""
        rt, org_id, limit = self._api.rt, self._call.org_id, self._api.settings.max_upload_bytes
        self._work = self._api.upload(
            lambda: keep_input(rt, org_id, head.filename, head.media_type, self._chunks(), limit)
        )

    async def write(self, data: bytes) -> None:
        """Pass on what makes whole chunks. Raises what the thread's work raised."""
        self._pending += data
        while len(self._pending) >= CHUNK_BYTES:
            await self._pass_on(bytes(self._pending[:CHUNK_BYTES]))
            del self._pending[:CHUNK_BYTES]

    async def end(self) -> None:
        """Pass on the rest and wait until the file is entered. Raises what the thread's work raised."""
        if self._pending:
            await self._pass_on(bytes(self._pending))
            self._pending.clear()
        self._whole = True
        self._queue.put(None)
        if self._work is not None:
            self.file = await self._work

    async def abort(self) -> None:
        """Forget the file, whatever has been kept of it. Never raises: it is called on the way out."""
        if self._work is None:
            return
        self._queue.put(None)
        with suppress(_Aborted, AsyncDeliveryError):
            await asyncio.wait((self._work,))
            file = self._work.result()
            await self._api.run(lambda: drop_input(self._api.rt, file))

    async def _pass_on(self, chunk: bytes) -> None:
        if (work := self._work) is None:
            raise AssertionError("a file begins before its bytes come")
        room = asyncio.ensure_future(self._room.acquire())
        await asyncio.wait((room, work), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            # Only a failure ends the work before the file does.
            room.cancel()
            work.result()
        self._queue.put(chunk)

    def _chunks(self) -> Iterator[bytes]:
        """On the thread: the chunks as they come."""
        while (chunk := self._queue.get()) is not None:
            yield chunk
            self._loop.call_soon_threadsafe(self._room.release)
        if not self._whole:
            raise _Aborted


async def receive_upload(
    api: Api, call: Call, receive: Receive, content_type: str
) -> tuple[bytes, StoreSink]:
    """The part ``request``, and the sink that has the file. Raises as ``read_form`` and ``keep_input`` do; the file
    is dropped then. The caller drops it if it refuses the request afterwards."""
    boundary = boundary_of(content_type)
    settings = api.settings
    body = Body(call, receive, settings.max_upload_bytes + settings.max_body_bytes + _FORM_OVERHEAD_BYTES)
    sink = StoreSink(api, call)
    try:
        document = await read_form(boundary, body.chunks(), sink, settings.max_body_bytes)
    except BaseException:
        await asyncio.shield(sink.abort())
        raise
    return document, sink
