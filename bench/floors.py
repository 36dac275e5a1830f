"""Bare ASGI applications on the HTTP server settings of the service: the limits of what it does over HTTP.

``python -m bench.floors --port N --answer STATUS:BYTES ...`` serves answer number i under ``/i``;
``--submit TEMPLATE DATABASE`` answers every request after a durable write. Nothing here imports the service.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.rawsqlite import GroupCommit, open_raw
from bench.rows import Template, fresh


def _messages(status: int, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    body = b'{"x":"' + b"x" * (size - 8) + b'"}' if size >= 8 else b" " * size
    headers = [(b"etag", b'"0123456789abcdef"')]
    if status != 304:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
    return (
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    )


def bare_app(answers: Sequence[tuple[int, int]]) -> Any:
    """An ASGI application that does nothing but answer: (status, bytes) number i under ``/i``."""
    ready = {f"/{number}": _messages(status, size) for number, (status, size) in enumerate(answers)}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        start, body = ready[scope["path"]]
        await send(start)
        await send(body)

    return app


def bare_submit_app(made_from: Template, database: Path) -> Any:
    """The same for a submit: reads the body, writes the rows of one job by group commit, answers 202 after it."""
    start, body = _messages(202, 1200)
    group: GroupCommit | None = None
    connection = open_raw(database, made_from.schema)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal group
        if group is None:
            group = GroupCommit(connection, asyncio.get_running_loop())
        while (await receive()).get("more_body"):
            pass
        await group.put(fresh(made_from))
        await send(start)
        await send(body)

    return app


def _answer(text: str) -> tuple[int, int]:
    status, _, size = text.partition(":")
    return int(status), int(size)


def main() -> None:
    """Serve a bare application on the loopback address until stopped."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m bench.floors", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", type=_answer, action="append", default=[], metavar="STATUS:BYTES")
    parser.add_argument(
        "--submit", nargs=2, type=Path, metavar=("TEMPLATE", "DATABASE"), help="write rows as well"
    )
    arguments = parser.parse_args()
    app = bare_app(arguments.answer)
    if arguments.submit:
        template, database = arguments.submit
        app = bare_submit_app(Template.load(template), database)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
